"""Colours, type and layout of the page; system fonts only, so that nothing is fetched from elsewhere."""

import gradio as gr

SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")


def theme() -> gr.themes.Base:
    return gr.themes.Base(
        primary_hue=gr.themes.colors.teal,
        secondary_hue=gr.themes.colors.teal,
        neutral_hue=gr.themes.colors.slate,
        radius_size=gr.themes.sizes.radius_md,
        spacing_size=gr.themes.sizes.spacing_md,
        font=SANS,
        font_mono=MONO,
    ).set(
        body_background_fill="#f7f8fa",
        body_background_fill_dark="#0e1420",
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_400",
        background_fill_primary_dark="#151d2b",
        block_background_fill_dark="#151d2b",
        block_border_width="1px",
        block_shadow="none",
        block_shadow_dark="none",
        block_title_text_weight="600",
        block_title_text_size="*text_sm",
        block_info_text_size="*text_xs",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="#ffffff",
        link_text_color="*primary_700",
        link_text_color_dark="*primary_300",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
    )


CSS = """
.gradio-container { width: 100%; max-width: 1440px !important; margin: 0 auto !important; }
.gradio-container .main, .gradio-container .wrap, .gradio-container main { width: 100%; }
#heading h1 { font-size: 1.45rem; margin: 0 0 2px; letter-spacing: -0.01em; }
#heading p { margin: 0; color: var(--body-text-color-subdued); max-width: 110ch; line-height: 1.45; }
#compare, #check { flex-wrap: nowrap; align-items: flex-start; gap: 16px; }
#controls, #check-controls { min-width: 270px !important; max-width: 300px; gap: 10px; }
#results, #check-results { min-width: 0 !important; gap: 10px; }
#equation p { margin: 0 0 3px; font-size: 0.84rem; color: var(--body-text-color-subdued); line-height: 1.4; }
#equation strong { font-weight: 600; color: var(--body-text-color); margin-right: 1px; }
#equation .katex-display { margin: 0 0 4px; text-align: left; }
#equation .katex-display > .katex { text-align: left; font-size: 1em; color: var(--body-text-color); }
#equation { background: var(--block-background-fill); padding: 6px 14px 10px !important; }
#pde { padding: 0 !important; overflow: visible !important; }
#pde .wrap { display: grid; gap: 8px; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); }
#pde label { position: relative; gap: 10px; padding: 6px 10px 6px 6px; min-height: 46px; font-weight: 500; }
#pde label { border: 1px solid var(--border-color-primary); background: var(--block-background-fill); }
#pde label span { margin: 0; line-height: 1.2; color: var(--body-text-color); }
#pde label::before { flex: 0 0 46px; height: 46px; border-radius: 5px; background-size: cover; }
#pde label.selected { border-color: var(--primary-600); box-shadow: inset 0 0 0 1px var(--primary-600); }
#pde input { position: absolute; opacity: 0; width: 1px; height: 1px; } /* the picture stands for the dot */
#pde label:has(:focus-visible) { outline: 2px solid var(--primary-400); outline-offset: 2px; }
#marks { gap: 5px; flex-wrap: nowrap; background: var(--block-background-fill); padding: 4px 12px 10px; border: none; }
#marks button { min-width: 0 !important; padding: 3px 0; font-weight: 500; border-radius: 6px !important; }
#seed-row { gap: 0; flex-wrap: nowrap; align-items: stretch; background: var(--block-background-fill); }
#dice { min-width: 42px !important; max-width: 42px; height: 38px; }
#dice { font-size: 1.25rem; padding: 0; align-self: flex-end; }
#dice { margin: 0 12px 12px 0; border-radius: 6px !important; }
#run-row { gap: 8px; flex-wrap: nowrap; } #run-row button { min-width: 0 !important; }

.caption { color: var(--body-text-color-subdued); font-size: 0.88rem; line-height: 1.5; }
.caption strong { color: var(--body-text-color); font-weight: 600; }
.tag { display: inline-block; padding: 0 8px; margin-right: 6px; }
.tag { border-radius: 99px; font-size: 0.78rem; font-weight: 600; }
.tag { color: var(--primary-800); background: var(--primary-100); }
.dark .tag { color: var(--primary-200); background: color-mix(in srgb, var(--primary-800) 55%, transparent); }
.problem { border-left: 3px solid #d97706; }
.problem { background: color-mix(in srgb, #d97706 12%, transparent); padding: 8px 12px; }
.problem { border-radius: 4px; color: var(--body-text-color); font-size: 0.92rem; margin: 0 !important; }
.problem + .problem { margin-top: 6px !important; }
#heading .html-container, #results .html-container, #check-results .html-container { padding: 0 2px !important; }
/* No commas within brackets: Gradio takes them for the end of a selector. */
#status { min-width: 0 !important; flex: 0 0 auto; } #status:has(.progress) { flex: 1 1 260px; }
#status:has(.caption) { flex: 1 0 100%; } #status:has(.problem) { flex: 1 0 100%; }
#results:has(.preview) #sentence, #results:has(.preview) #figures { opacity: 0.4; } /* of the previous result */
#results:has(.preview) #downloads { opacity: 0.4; }
#above:has(.progress) #caption { display: none; }
.progress { display: flex; align-items: center; gap: 10px; flex-wrap: wrap; font-size: 0.88rem; }
.progress { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.progress .bar { flex: 0 0 140px; height: 6px; border-radius: 3px; overflow: hidden; }
.progress .bar { background: var(--border-color-primary); }
.progress .bar i { display: block; height: 100%; background: var(--primary-600); }
#above { align-items: center; gap: 6px 10px; flex-wrap: wrap; min-height: 34px; }
#above > * { min-width: 0; } #caption { flex: 1 1 260px; }
#sample { width: auto; flex: 0 0 auto; min-width: 0; } #sample label { padding: 3px 9px; }
#sample .wrap { gap: 5px; flex-wrap: wrap; align-items: center; }
#sample .wrap::before { content: "Sample"; font-size: 0.88rem; color: var(--body-text-color-subdued); }
#player { align-items: center; gap: 6px 18px; flex-wrap: wrap; min-height: 30px; }
#player > * { min-width: 0 !important; flex: 0 1 auto; width: auto; }
#play { flex: 0 0 64px; width: 64px; }
#frame .wrap { display: flex; flex-direction: row; align-items: center; gap: 8px; width: 230px; }
#frame .head { display: none; } #frame .slider_input_container { flex: 1; }
#frame .wrap::before { content: "Frame"; font-size: 0.88rem; color: var(--body-text-color-subdued); }
#what label { padding: 3px 9px; } #what .wrap { gap: 5px; align-items: center; }
#what .wrap::before { content: "Show"; font-size: 0.88rem; color: var(--body-text-color-subdued); }

/* While a preview is there it takes the place of the figure, which stays mounted underneath. */
.stage { position: relative; gap: 0; padding: 10px 8px 6px; overflow-x: auto; overflow-y: hidden; display: block; }
.stage, .figures { contain: inline-size; } /* as wide as the page, whatever is inside */
.stage { border: 1px solid var(--border-color-primary); border-radius: var(--block-radius); }
.stage { background: var(--block-background-fill); }
.stage > * { min-width: var(--grid-width, 900px) !important; }
.stage .block { border: none !important; background: none; padding: 0 !important; overflow: visible !important; }
.live-grid:not(:has(.preview)) { display: none; }
.stage:has(.preview) .plot-grid { visibility: hidden; position: absolute; }
.stage:has(.preview) .plot-grid { inset: 10px 8px 6px; overflow: hidden !important; }
.plot-grid .js-plotly-plot text { fill: var(--body-text-color) !important; }
.plot-grid .js-plotly-plot .hoverlayer text { fill: #fff !important; }
.plot-grid .modebar-group { background: color-mix(in srgb, var(--block-background-fill) 85%, transparent) !important; }
.preview { display: grid; color: var(--body-text-color); }
.preview .corner { grid-row: 1; grid-column: 1; }
.preview .title { grid-row: 1; text-align: center; font-size: 13px; margin-bottom: -30px; line-height: 24px; }
.preview .name { writing-mode: vertical-rl; transform: rotate(180deg); text-align: center; }
.preview .name { font-weight: 600; font-size: 13px; justify-self: end; margin-right: 4px; }
.preview figure { margin: 0; position: relative; }
.preview img { display: block; width: 100%; aspect-ratio: 1; image-rendering: pixelated; margin: 0 !important; }
.preview figcaption { position: absolute; top: 100%; left: 0; right: 0; padding-top: 3px; text-align: center; }
.preview figcaption { font-size: 12px; font-variant-numeric: tabular-nums; white-space: nowrap; }

#sentence p, #check-sentence p { font-size: 1.08rem; font-weight: 600; line-height: 1.45; margin: 2px 0; }
#sentence ul, #check-sentence ul { margin: 4px 0 0; padding-left: 18px; font-size: 0.92rem; }
#sentence ul, #check-sentence ul { color: var(--body-text-color); }
.figures { overflow-x: auto; }
.figures table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; margin: 0 !important; }
.figures table, .figures tr, .figures th, .figures td { border: none !important; background: none !important; }
.figures tr + tr, .figures tbody tr:first-child { border-top: 1px solid var(--border-color-primary) !important; }
.figures th, .figures td { padding: 7px 10px !important; text-align: right; white-space: nowrap; font-size: 0.9rem; }
.figures th:first-child, .figures td:first-child { text-align: left; padding-left: 2px !important; }
.figures thead th { font-weight: 600; vertical-align: top; }
.figures small { display: block; font-weight: 400; font-size: 0.78rem; color: var(--body-text-color-subdued); }
.figures tr.floor td, .figures tr.floor th { color: var(--body-text-color-subdued); font-weight: 400; }
.figures .better { color: #047857; } .figures .worse { color: #b45309; }
.dark .figures .better { color: #34d399; } .dark .figures .worse { color: #fbbf24; }
#downloads { gap: 8px; flex-wrap: wrap; } #downloads button { min-width: 80px !important; font-weight: 500; }

#sweep .html-container { padding: 0 2px !important; } #sweep-curves .caption { margin-bottom: 6px; }
#sweep-row { gap: 8px; align-items: center; flex-wrap: wrap; margin-top: 8px; }
#sweep-row > * { min-width: 0 !important; flex: 0 0 auto; width: auto; } #sweep-row button { padding: 5px 16px; }
#sweep-status:has(.progress) { flex: 1 1 260px; } #sweep-status:has(.problem) { flex: 1 0 100%; }

#check-above { gap: 8px; flex-wrap: wrap; } #check-above > * { flex: 0 1 260px; }
#check-stage:not(:has(.js-plotly-plot)) { display: none; }
#check-status:not(:has(div div)) { display: none; } #check-figures table { max-width: 720px; }
#check-figures th, #check-figures td { white-space: normal; }
#check-samples .words { white-space: normal; text-align: left; }
#check-figures tbody th, #check-samples tbody th { font-weight: 400; }

#models-intro p { max-width: 100ch; margin: 0; }
#models-intro .html-container, #models-table .html-container { padding: 0 2px !important; }
#models-status .html-container, #models-arrivals .html-container { padding: 0 2px !important; }
#models-status:not(:has(.caption)):not(:has(.problem)):not(:has(.progress)) { display: none; }
#models-arrivals:not(:has(.problem)):not(:has(.progress)) { display: none; }
#models-tools { align-items: stretch; gap: 16px; flex-wrap: wrap; }
.tool { gap: 8px; padding: 10px 12px 12px; border: 1px solid var(--border-color-primary); flex: 1 1 260px; }
.tool { border-radius: var(--block-radius); background: var(--block-background-fill); justify-content: flex-end; }
.tool .block { border: none !important; padding: 0 !important; background: none; }
.tool .form { border: none; background: none; gap: 0; }
.tool button { font-weight: 500; } #models-buttons { gap: 8px; } #models-buttons button { min-width: 90px !important; }
#models-status p { margin: 0; }
.models th, .models td { text-align: left; } .models tr.own th { color: var(--primary-700); }
.dark .models tr.own th { color: var(--primary-300); }
.models tbody th { font-weight: 500; } .models tr > th:first-child { position: sticky; left: 0; }
.models tr > th:first-child { background: var(--body-background-fill) !important; padding-right: 14px !important; }
.models thead th { font-size: 0.84rem; }
.models td:nth-child(n + 7), .models thead th:nth-child(n + 7) { text-align: right; }
.models code { font-size: 0.82rem; background: none; }
#restarted { display: none; } #notice:not(:has(.problem)) { display: none; }
#notice .html-container { padding: 0 2px !important; }
@media (max-width: 860px) {
  #compare, #check, #pde { width: calc(100% + 36px); margin: 0 -18px; }
  #compare, #check { flex-direction: column; align-items: stretch; }
  #controls, #check-controls { max-width: none; min-width: 0 !important; }
  .stage > * { min-width: calc(1.16 * var(--grid-width, 900px)) !important; }
}
"""
