// Draws dashboards with Grafana's own components, from the answers of a real Prometheus.
// @grafana/ui has no heatmap, annotations or exemplars: they are drawn on top of its plot.
// window.DRAW draws one dashboard and resolves to its problems: the errors of panels by title, and the panels that show
// nothing.
import {
  applyFieldOverrides,
  createTheme,
  DataFrame,
  dateTime,
  FieldType,
  getDisplayProcessor,
  getFieldDisplayValues,
  renderTextPanelMarkdown,
  PanelData,
  Registry,
  standardTransformers,
  standardTransformersRegistry,
  ThemeContext,
  TimeRange,
  toDataFrame,
  transformDataFrame,
} from '@grafana/data';
import {
  BarGauge,
  BigValue,
  GlobalStyles,
  PanelChrome,
  PanelContextProvider,
  PortalContainer,
  Table,
  TimeSeries,
  UPlotChart,
  UPlotConfigBuilder,
  VizLayout,
} from '@grafana/ui';
import * as React from 'react';
import { createRoot } from 'react-dom/client';
import { firstValueFrom } from 'rxjs';

interface Series { metric: Record<string, string>; values: Array<[number, string]>; legend: string }
interface Answer { refId: string; series: Series[]; exemplars: Array<[number, number]> }
interface Panel {
  id: number; type: string; title: string; description?: string; options?: any; fieldConfig: any; targets?: any[];
  transformations?: any[]; gridPos: { x: number; y: number; w: number; h: number };
}
interface Mark { at: number; colour: string }
interface Picture {
  board: { title: string; panels: Panel[] }; answers: Record<string, Answer[]>; marks: Mark[];
  from: number; to: number; step: number; width: number; chosen: Array<[string, string]>;
}

declare global { interface Window { DRAW: (picture: Picture) => Promise<Record<string, string>> } }


let picture: Picture;
let timeRange: TimeRange;
let registry: Registry<any>;
let problems: Record<string, string>;
const theme = createTheme({ colors: { mode: 'dark' } });
const CELL = 38, GAP = 8;

const overridable = ['unit', 'min', 'max', 'decimals', 'displayName', 'thresholds', 'color', 'links', 'noValue', 'mappings'];

function choose(next: Picture) {
  picture = next;
  problems = {};
  const range = { from: dateTime(picture.from * 1000), to: dateTime(picture.to * 1000) };
  timeRange = { ...range, raw: range };
  const custom = new Set(['cellOptions', 'width', ...picture.board.panels.flatMap((panel) => Object.keys(panel.fieldConfig?.defaults?.custom ?? {}))]);
  registry = new Registry<any>(() => [
    ...overridable.map((id) => option(id, id, false)),
    ...[...custom].map((key) => option(`custom.${key}`, key, true)),
  ]);
}

function option(id: string, path: string, isCustom: boolean) {
  return { id, path, isCustom, name: id, process: (value: any) => value, shouldApply: () => true };
}
standardTransformersRegistry.setInit(() => {
  const byId = new Map<string, any>(Object.values(standardTransformers).map((each: any) => [each.id, each]));
  return [...byId.values()].map((each) => ({ id: each.id, name: each.name, transformation: each, editor: () => null })) as any;
});

function configured(panel: Panel, frames: DataFrame[]): DataFrame[] {
  return applyFieldOverrides({
    data: frames, fieldConfig: panel.fieldConfig, theme, timeZone: 'utc',
    replaceVariables: (text: string) => text, fieldConfigRegistry: registry,
  } as any);
}

// Prometheus leaves out the times without a value; Grafana's data source puts null there, so that lines have gaps.
function withGaps(values: Array<[number, string]>): Array<[number, number | null]> {
  return values.flatMap(([at, value], place): Array<[number, number | null]> => {
    const gap = place > 0 && at - values[place - 1][0] > 1.5 * picture.step;
    return gap ? [[at - picture.step, null], [at, Number(value)]] : [[at, Number(value)]];
  });
}

function seriesFrames(panel: Panel): DataFrame[] {
  const frames = (picture.answers[panel.id] ?? []).flatMap((answer) =>
    answer.series.map((series) => {
      const values = withGaps(series.values);
      return toDataFrame({
        refId: answer.refId, name: series.legend,
        fields: [
          { name: 'Time', type: FieldType.time, values: values.map(([at]) => at * 1000), config: {} },
          {
            name: 'Value', type: FieldType.number, labels: series.metric, values: values.map(([, value]) => value),
            config: { displayNameFromDS: series.legend },
          },
        ],
      });
    })
  );
  return configured(panel, frames);
}

async function tableFrame(panel: Panel): Promise<DataFrame> {
  const answers = picture.answers[panel.id] ?? [];
  const frames = answers.filter((answer) => answer.series.length).map((answer) => {
    const labels = [...new Set(answer.series.flatMap((series) => Object.keys(series.metric)))];
    return toDataFrame({
      refId: answer.refId,
      fields: [
        { name: 'Time', type: FieldType.time, values: answer.series.map(() => picture.to * 1000), config: {} },
        ...labels.map((label) => ({
          name: label, type: FieldType.string, config: {}, values: answer.series.map((series) => series.metric[label] ?? ''),
        })),
        {
          name: answers.length > 1 ? `Value #${answer.refId}` : 'Value', type: FieldType.number, config: {},
          values: answer.series.map((series) => Number(series.values[series.values.length - 1][1])),
        },
      ],
    });
  });
  const changed = frames.length ? await firstValueFrom(transformDataFrame(panel.transformations ?? [], frames)) : [];
  return configured(panel, changed)[0] ?? toDataFrame({ fields: [] });
}

function paintMarks(builder: UPlotConfigBuilder, exemplars: Array<[number, number]>) {
  builder.addHook('draw', (u: any) => {
    const ctx: CanvasRenderingContext2D = u.ctx;
    ctx.save();
    ctx.beginPath();
    ctx.rect(u.bbox.left, u.bbox.top, u.bbox.width, u.bbox.height);
    ctx.clip();
    for (const mark of picture.marks) {
      const x = Math.round(u.valToPos(mark.at * 1000, 'x', true));
      ctx.strokeStyle = mark.colour;
      ctx.lineWidth = 1.5;
      ctx.setLineDash([5, 4]);
      ctx.beginPath();
      ctx.moveTo(x, u.bbox.top);
      ctx.lineTo(x, u.bbox.top + u.bbox.height);
      ctx.stroke();
    }
    ctx.setLineDash([]);
    ctx.fillStyle = '#5794f2';
    for (const [at, value] of exemplars) {
      const scale = u.series[1].scale;
      const x = u.valToPos(at * 1000, 'x', true), y = u.valToPos(value, scale, true);
      ctx.beginPath();
      ctx.moveTo(x, y - 5); ctx.lineTo(x + 5, y); ctx.lineTo(x, y + 5); ctx.lineTo(x - 5, y);
      ctx.fill();
    }
    ctx.restore();
  });
}

function Lines({ panel, width, height }: { panel: Panel; width: number; height: number }) {
  const frames = seriesFrames(panel);
  if (!frames.length) { return <Nothing>No data</Nothing>; }
  const exemplars = (picture.answers[panel.id] ?? []).flatMap((answer) => answer.exemplars);
  return (
    <TimeSeries
      frames={frames} structureRev={1} timeRange={timeRange} timeZone="utc" width={width} height={height}
      legend={{ ...panel.options?.legend, calcs: [] }} options={panel.options}
    >
      {(builder: UPlotConfigBuilder) => {
        paintMarks(builder, exemplars);
        return null;
      }}
    </TimeSeries>
  );
}

const SCALE = ['#30123b', '#4145ab', '#4675ed', '#39a2fc', '#1bcfd4', '#24eca6', '#61fc6c', '#a4fc3b', '#d1e834', '#f3c63a', '#fe9b2d', '#f36315', '#d93806', '#b11901', '#7a0402'];

function Heat({ panel, width, height }: { panel: Panel; width: number; height: number }) {
  const answer = (picture.answers[panel.id] ?? [])[0];
  if (!answer?.series.length) { return <Nothing>No data</Nothing>; }
  const sorted = [...answer.series].sort((a, b) => bound(a) - bound(b));
  const times = [...new Set(sorted.flatMap((series) => series.values.map(([at]) => at)))].sort((a, b) => a - b);
  const cumulated = sorted.map((series) => new Map(series.values.map(([at, value]) => [at, Number(value)])));
  const counts = cumulated.map((row, place) =>
    times.map((at) => Math.max(0, (row.get(at) ?? 0) - (place ? cumulated[place - 1].get(at) ?? 0 : 0)))
  );
  const most = Math.max(...counts.flat(), 1e-9);
  const format = getDisplayProcessor({ field: { type: FieldType.number, config: { unit: panel.options?.yAxis?.unit ?? 's' } }, theme });
  const builder = new UPlotConfigBuilder('utc');
  builder.addScale({ scaleKey: 'x', isTime: true, orientation: 0, direction: 1, range: () => [picture.from * 1000, picture.to * 1000] } as any);
  builder.addScale({ scaleKey: 'y', isTime: false, orientation: 1, direction: 1, range: () => [0, sorted.length] } as any);
  builder.addAxis({ scaleKey: 'x', isTime: true, placement: 'bottom', theme, timeZone: 'utc' } as any);
  builder.addAxis({
    scaleKey: 'y', placement: 'left', theme, grid: { show: false },
    splits: () => sorted.map((_, place) => place + 1).filter((place) => place % Math.ceil(sorted.length / 8) === 0),
    formatValue: (place: number) => {
      const shown = Number.isFinite(bound(sorted[place - 1])) ? format(bound(sorted[place - 1])) : { text: '∞', suffix: '' };
      return `${shown.text}${shown.suffix ?? ''}`;
    },
  } as any);
  builder.addSeries({ scaleKey: 'y', show: false, theme, pxAlign: false } as any);
  const step = (times[1] ?? times[0] + 1) - times[0];
  builder.addHook('draw', (u: any) => {
    counts.forEach((row, place) => row.forEach((count, column) => {
      if (!count) { return; }
      const left = u.valToPos((times[column] - step / 2) * 1000, 'x', true), right = u.valToPos((times[column] + step / 2) * 1000, 'x', true);
      const top = u.valToPos(place + 1, 'y', true), bottom = u.valToPos(place, 'y', true);
      u.ctx.fillStyle = SCALE[Math.min(SCALE.length - 1, Math.floor(Math.sqrt(count / most) * SCALE.length))];
      u.ctx.fillRect(Math.max(left, u.bbox.left), top + 0.5, right - Math.max(left, u.bbox.left) - 1, bottom - top - 1);
    }));
  });
  paintMarks(builder, []);
  const data: any = [times.map((at) => at * 1000), times.map(() => 0)];
  return <UPlotChart config={builder} data={data} width={width} height={height} timeRange={timeRange} />;
}

function bound(series: Series): number {
  return series.metric.le === '+Inf' ? Infinity : Number(series.metric.le);
}

function Number_({ panel, width, height }: { panel: Panel; width: number; height: number }) {
  const shown = displays(panel);
  const value = shown[0];
  const nothing = { text: panel.fieldConfig.defaults.noValue ?? 'No data', numeric: NaN, color: theme.colors.text.secondary };
  return (
    <BigValue
      theme={theme} width={width} height={height} value={(value?.display ?? nothing) as any} sparkline={panel.options.graphMode === 'area' ? value?.sparkline : undefined}
      graphMode={panel.options.graphMode} colorMode={value ? panel.options.colorMode : ('value' as any)}
      textMode={panel.options.textMode} justifyMode={'auto' as any}
    />
  );
}

function displays(panel: Panel): any[] {
  const frames = seriesFrames(panel);
  if (!frames.length) { return []; }
  return getFieldDisplayValues({
    data: frames, fieldConfig: panel.fieldConfig, theme, timeZone: 'utc', sparkline: true,
    reduceOptions: panel.options.reduceOptions, replaceVariables: (text: string) => text,
  } as any).map((value: any) => ({ ...value, display: { ...value.display, title: value.display.title } }));
}

function Bars({ panel, width, height }: { panel: Panel; width: number; height: number }) {
  const all = displays(panel);
  if (!all.length) { return <Nothing>{panel.fieldConfig.defaults.noValue ?? 'No data'}</Nothing>; }
  const most = Math.max(...all.map((each) => each.display.numeric));
  const tall = Math.min(44, height / all.length);
  return (
    <div>
      {all.map((each, place) => (
        <BarGauge
          key={place} theme={theme} width={width} height={tall - 6} itemSpacing={6} orientation={'horizontal' as any}
          displayMode={panel.options.displayMode} showUnfilled field={{ ...each.field, min: 0, max: most }} value={each.display}
          display={each.view?.getFieldDisplayProcessor?.(each.colIndex)}
        />
      ))}
    </div>
  );
}

function Rows({ frame, panel, width, height }: { frame: DataFrame; panel: Panel; width: number; height: number }) {
  if (!frame.length) { return <Nothing>{panel.fieldConfig.defaults.noValue ?? 'No data'}</Nothing>; }
  return <Table data={frame} width={width} height={height} initialSortBy={panel.options?.sortBy} showTypeIcons={false} />;
}

function Nothing({ children }: { children: React.ReactNode }) {
  return <div style={{ color: theme.colors.text.secondary, display: 'grid', placeItems: 'center', height: '100%' }}>{children}</div>;
}

function Content({ panel, frame, width, height }: { panel: Panel; frame?: DataFrame; width: number; height: number }) {
  switch (panel.type) {
    case 'timeseries': return <Lines panel={panel} width={width} height={height} />;
    case 'heatmap': return <Heat panel={panel} width={width} height={height} />;
    case 'stat': return <Number_ panel={panel} width={width} height={height} />;
    case 'bargauge': return <Bars panel={panel} width={width} height={height} />;
    case 'table': return <Rows panel={panel} frame={frame!} width={width} height={height} />;
    case 'text': return <div style={{ padding: 8, height, overflow: 'auto' }} dangerouslySetInnerHTML={{ __html: renderTextPanelMarkdown(panel.options.content) }} />;
    default: throw new Error(`no way to draw a panel of type ${panel.type}`);
  }
}

class Guard extends React.Component<{ title: string; children: React.ReactNode }, { error?: Error }> {
  state: { error?: Error } = {};

  static getDerivedStateFromError(error: Error) {
    return { error };
  }

  componentDidCatch(error: Error) {
    problems[this.props.title] = String(error);
  }

  render() {
    return this.state.error ? <Nothing>{String(this.state.error)}</Nothing> : this.props.children;
  }
}

function Dashboard({ frames }: { frames: Record<number, DataFrame> }) {
  const column = (picture.width - GAP) / 24;
  const bottom = Math.max(...picture.board.panels.map((panel) => panel.gridPos.y + panel.gridPos.h));
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <PanelContextProvider value={{ eventBus: { publish() {}, getStream: () => ({ subscribe: () => ({ unsubscribe() {} }), pipe: () => ({ subscribe: () => ({ unsubscribe() {} }) }) }), subscribe: () => ({ unsubscribe() {} }), removeAllListeners() {}, newScopedBus: () => ({}) } as any }}>
        <div style={{ background: theme.colors.background.canvas, width: picture.width, padding: `0 0 ${GAP}px` }}>
          <header style={{ display: 'flex', alignItems: 'center', gap: 12, padding: '10px 12px', color: theme.colors.text.primary }}>
            <b style={{ fontSize: 16 }}>{picture.board.title}</b>
            {picture.chosen.map(([name, value]) => (
              <span key={name} style={{ border: `1px solid ${theme.colors.border.medium}`, borderRadius: 2, fontSize: 12, padding: '3px 8px' }}>
                <span style={{ color: theme.colors.text.secondary }}>{name} </span>{value}
              </span>
            ))}
          </header>
          <div style={{ position: 'relative', height: bottom * CELL }}>
            {picture.board.panels.map((panel) => {
              const { x, y, w, h } = panel.gridPos;
              const box = { left: GAP + x * column, top: y * CELL, width: w * column - GAP, height: h * CELL - GAP };
              if (panel.type === 'row') {
                return <div key={panel.id} style={{ ...box, position: 'absolute', color: theme.colors.text.primary, fontWeight: 500, paddingTop: 6 }}>⌄ {panel.title}</div>;
              }
              return (
                <div key={panel.id} data-panel={panel.title} style={{ ...box, position: 'absolute' }}>
                  <PanelChrome title={panel.title} width={box.width} height={box.height}>
                    {(width, height) => (
                      <Guard title={panel.title}><Content panel={panel} frame={frames[panel.id]} width={width} height={height} /></Guard>
                    )}
                  </PanelChrome>
                </div>
              );
            })}
          </div>
        </div>
        <PortalContainer />
      </PanelContextProvider>
    </ThemeContext.Provider>
  );
}

window.DRAW = async (next) => {
  choose(next);
  const frames: Record<number, DataFrame> = {};
  for (const panel of picture.board.panels) {
    if (panel.type === 'table') { frames[panel.id] = await tableFrame(panel); }
  }
  const place = document.createElement('div');
  document.body.replaceChildren(place);
  createRoot(place).render(<Dashboard frames={frames} />);
  await new Promise((resolve) => setTimeout(resolve, 500));
  for (const panel of place.querySelectorAll<HTMLElement>('[data-panel]')) {
    const title = panel.dataset.panel!;
    const content = panel.innerText.replace(title, '').trim();
    if (!(title in problems) && (content.includes('No data') || !(content || panel.querySelector('canvas')))) {
      problems[title] = 'it shows nothing';
    }
  }
  return problems;
};
