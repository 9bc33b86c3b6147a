"""Layout of the Train tab. No commas within brackets: Gradio takes them for the end of a selector."""

TRAIN_CSS = """
#train { flex-wrap: nowrap; align-items: flex-start; gap: 16px; }
#train-controls { min-width: 270px !important; max-width: 300px; gap: 10px; }
#train-live { min-width: 0 !important; gap: 10px; }
#train .html-container { padding: 0 !important; }
#presets .wrap { display: grid; grid-template-columns: repeat(3, minmax(0, 1fr)); gap: 5px; }
#presets label { justify-content: center; padding: 5px 0; border-radius: 6px; white-space: nowrap; }
#presets label { border: 1px solid var(--border-color-primary); }
#presets label span { margin: 0; font-size: 0.8rem; font-weight: 500; }
#presets label.selected { border-color: var(--primary-600); box-shadow: inset 0 0 0 1px var(--primary-600); }
#presets input { position: absolute; opacity: 0; width: 1px; height: 1px; }
#presets label:has(:focus-visible) { outline: 2px solid var(--primary-400); outline-offset: 2px; }
.pair { gap: 0; flex-wrap: nowrap; } .pair > * { min-width: 0 !important; }
#advanced .form { border: none; } #advanced .block { padding: 4px 6px; min-height: 0; }
#advanced .pair, #advanced .pair .form { flex-grow: 0; min-height: 0; align-items: flex-start; }
#advanced > div, #advanced .gap { gap: 2px; } #advanced .column { gap: 6px; }
#advanced .pair:not(:has(input)) { display: none; } #advanced .pair label { display: block; padding: 0; }
#advanced input, #advanced textarea { padding: 5px 8px; } #advanced label > span { margin-bottom: 3px; }
#advanced .container { font-size: 0.86rem; }
#estimate { background: var(--block-background-fill); padding: 8px 12px 9px !important; }
#estimate { border: 1px solid var(--border-color-primary); border-radius: var(--block-radius); }
#estimate:not(:has(div div)) { display: none; } /* nothing to tell yet */
.estimate { font-size: 0.82rem; line-height: 1.45; color: var(--body-text-color-subdued); }
.estimate strong { color: var(--body-text-color); font-weight: 600; font-variant-numeric: tabular-nums; }
.buttons { gap: 8px; flex-wrap: nowrap; } .buttons > * { min-width: 0 !important; flex: 1 1 0; }
#own .html-container { padding: 0 !important; } #own .caption { margin-bottom: 4px; }
#train-above { align-items: center; gap: 6px 14px; min-height: 34px; }
#train-above > * { min-width: 0 !important; flex: 0 0 auto; width: auto; }
#train-above .caption { white-space: nowrap; }
#train-sample label { padding: 3px 9px; } #train-sample .wrap { gap: 5px; align-items: center; }
#train-sample .wrap::before { content: "Sample"; font-size: 0.88rem; color: var(--body-text-color-subdued); }
#train-live .form:has(#overlay) { max-width: 340px; border-radius: var(--block-radius); }
#train-stage:not(:has(.preview)):not(:has(.js-plotly-plot)) { display: none; }
#train-downloads { gap: 8px; flex-wrap: wrap; }
#train-downloads button { flex: 0 0 auto; width: auto; padding: 5px 16px; }
#command textarea, #command input { font-family: var(--font-mono); font-size: 0.8rem; }

.run-head { display: flex; align-items: center; gap: 6px 10px; flex-wrap: wrap; min-height: 30px; font-size: 0.9rem; }
.run-head b { font-weight: 600; font-size: 1rem; } .run-head span { color: var(--body-text-color-subdued); }
.pill { padding: 1px 10px; border-radius: 99px; font-size: 0.78rem; font-weight: 600; white-space: nowrap; }
.pill { font-style: normal; }
.run-head .pill { color: var(--body-text-color-subdued); background: var(--border-color-primary); }
.run-head .pill.going { color: #fff; background: var(--primary-700); }
.run-head .pill.done { color: var(--primary-800); background: var(--primary-100); }
.run-head .pill.bad { color: #fff; background: #b45309; }
.dark .run-head .pill.done { color: var(--primary-200); }
.dark .run-head .pill.done { background: color-mix(in srgb, var(--primary-800) 55%, transparent); }
.run-bar { height: 5px; border-radius: 3px; overflow: hidden; margin: 6px 0 10px; }
.run-bar { background: var(--border-color-primary); }
.run-bar i { display: block; height: 100%; background: var(--primary-600); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(138px, 1fr)); gap: 8px; }
.tile { border: 1px solid var(--border-color-primary); border-radius: var(--block-radius); padding: 8px 12px 9px; }
.tile { background: var(--block-background-fill); min-width: 0; }
.tile span { display: block; font-size: 0.78rem; color: var(--body-text-color-subdued); white-space: nowrap; }
.tile strong { display: block; font-size: 1.22rem; font-weight: 600; line-height: 1.35; white-space: nowrap; }
.tile strong { font-variant-numeric: tabular-nums; color: var(--body-text-color); }
.tile small { display: block; font-size: 0.76rem; color: var(--body-text-color-subdued); white-space: nowrap; }
.tile .better { color: #047857; } .tile .worse { color: #b45309; }
.dark .tile .better { color: #34d399; } .dark .tile .worse { color: #fbbf24; }

.keys { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 0.8rem; color: var(--body-text-color-subdued); }
.keys { margin-bottom: 6px; } .keys svg { width: 30px; height: 12px; margin-right: 6px; overflow: visible; }
.keys span { display: inline-flex; align-items: center; }
.charts { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 10px; }
.chart { margin: 0; border: 1px solid var(--border-color-primary); border-radius: var(--block-radius); }
.chart { background: var(--block-background-fill); padding: 9px 14px 7px; color: var(--body-text-color); }
.chart figcaption { display: flex; justify-content: space-between; font-size: 0.88rem; line-height: 1.4; }
.chart figcaption b { font-weight: 600; } .chart figcaption strong { font-weight: 600; }
.chart figcaption strong { font-variant-numeric: tabular-nums; color: var(--primary-700); }
.dark .chart figcaption strong { color: var(--primary-300); }
.plot { position: relative; height: 168px; margin: 8px 0 3px 52px; cursor: crosshair; }
.plot svg { position: absolute; inset: 0; width: 100%; height: 100%; overflow: visible; }
.plot svg { clip-path: inset(-3px -5px); }
.plot .marks span { position: absolute; right: calc(100% + 7px); transform: translateY(-50%); }
.plot .marks span { font-size: 11px; color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; }
.plot .marks span { white-space: nowrap; }
.plot .at { position: absolute; right: 2px; transform: translateY(-102%); font-size: 11px; padding: 0 3px; }
.plot .at { color: var(--body-text-color-subdued); background: none; pointer-events: none; }
.under { position: relative; min-height: 16px; margin-left: 52px; font-size: 11px; text-align: center; }
.under { color: var(--body-text-color-subdued); font-variant-numeric: tabular-nums; white-space: nowrap; }
.under em { font-style: normal; } .under.marked em { display: block; padding-top: 15px; }
.under span { position: absolute; transform: translateX(-50%); }
.under span:first-child { transform: none; } .under span:nth-last-child(2) { transform: translateX(-100%); }
.plot path, .keys path { fill: none; vector-effect: non-scaling-stroke; stroke-linejoin: round; }
path.rule { stroke: var(--border-color-primary); stroke-width: 1; opacity: 0.75; }
path.raw { stroke-width: 1; opacity: 0.4; } path.smooth { stroke-width: 2; }
path.held { stroke-width: 1.5; } path.dots { stroke-width: 6.5 !important; stroke-linecap: round; }
path.run0 { stroke: var(--primary-600); } .dark path.run0 { stroke: var(--primary-400); }
path.held.run0 { stroke: #4338ca; } .dark path.held.run0 { stroke: #a5b4fc; }
path.run1 { stroke: #d97706; opacity: 0.75; } .dark path.run1 { stroke: #fbbf24; }
path.held.run1 { stroke: #92400e; } .dark path.held.run1 { stroke: #fde68a; }
path.held.run2 { stroke: #0f766e; } .dark path.held.run2 { stroke: #5eead4; }
path.held.run3 { stroke: #be185d; } .dark path.held.run3 { stroke: #f9a8d4; }
path.held.run4 { stroke: #475569; } .dark path.held.run4 { stroke: #cbd5e1; }
path.reference { stroke: var(--body-text-color-subdued); stroke-width: 1; stroke-dasharray: 5 4; }
.plot i { display: none; position: absolute; top: 0; bottom: 0; left: var(--at); border-left: 1px solid; opacity: 0.4; }
.plot output { display: none; position: absolute; top: 4px; left: calc(var(--at) + 8px); white-space: pre; z-index: 2; }
.plot output { padding: 4px 8px; border-radius: 5px; font-size: 11.5px; line-height: 1.45; pointer-events: none; }
.plot output { color: #fff; background: #111827e6; font-variant-numeric: tabular-nums; }
.plot output.left { left: auto; right: calc(100% - var(--at) + 8px); }
.plot.read i, .plot.read output { display: block; }

.empty { border: 1px dashed var(--border-color-primary); border-radius: var(--block-radius); padding: 26px 28px; }
.empty { color: var(--body-text-color-subdued); line-height: 1.55; } .empty b { color: var(--body-text-color); }
@media (max-width: 1100px) { .charts { grid-template-columns: minmax(0, 1fr); } }
@media (max-width: 860px) {
  #train { width: calc(100% + 36px); margin: 0 -18px; }
  #train { flex-direction: column; align-items: stretch; }
  #train-controls { max-width: none; min-width: 0 !important; }
  .tiles { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
"""
