// The lives of instances: what happened to each on its way in or out, and who still holds it.
//
// Not a part that fetches or decides when to draw: app.js does, and lends its tools. Built with textContent
// only, updated in place by key.
'use strict';
const pikepoleLives = (tools) => {
const { h, put, cls, attr, button, keyed, flash, icon, setIcon, parse, clock, full, span, plural, num, str, arr, obj } = tools;

const SHOWN = 12;                // lives shown before "more"
const NAMED = 4;                 // agents named before "more"
const APART = 60_000;            // ms between two steps from which on the second one's time is shown too

// ---- what the server says
const ENDS = {
  __proto__: null, // words come from the server
  converged: 'hook completed', ready: 'hook completed', deadline: 'hook completed at its deadline',
  gave_up: 'hook completed without an answer', no_such_action: 'hook was over already',
};
const STEPS = [
  ['launched', 'launched'], ['answered', 'port answered'], ['given_up', 'probe given up'], ['in_service', 'in service'],
  ['warned', 'spot warning'], ['draining', 'draining'], ['moved_off', 'every agent moved off'],
  ['completed', ''], ['gone', 'gone'],
];

/** What is told of the instances of a fleet; those that are under way first, then the latest news first. */
function read(raw) {
  const lives = arr(raw).map((one) => {
    const l = obj(one);
    const steps = [];
    for (const [key, word] of STEPS) {
      const at = parse(l[key]);
      const label = key === 'completed' ? ENDS[l.completed_because] : word;
      if (at != null && label) steps.push({ key, label, at });
    }
    steps.sort((a, b) => a.at - b.at); // a stable sort: equal times keep the order of the steps
    const has = (key) => parse(l[key]) != null;
    const gone = has('gone');
    return {
      id: str(l.instance_id), steps, gone,
      leaving: has('draining') && !gone,
      movedOff: has('moved_off'),
      warned: has('warned'),
      awaited: l.awaited === true && !gone,
      silent: has('given_up') && !has('answered') && !has('draining') && !gone,
      holders: arr(l.held_by).map(str),
    };
  }).filter((l) => l.id);
  return [...lives.filter(underWay), ...lives.filter((l) => !underWay(l))];
}
const underWay = (l) => l.leaving || l.awaited || l.silent;

// ---- what it means, and what to do
/** [icon, title, what to do about all that stand so] */
function standing(l, live) {
  if (l.leaving && l.holders.length) {
    return ['wait', `Held by ${plural(l.holders.length, 'agent')}`,
      'Who holds still uses a list with this collector. It is let go when all have moved off, at the latest at its deadline. If one stays, look at that proxy: perhaps its shipper does not reload.'];
  }
  if (l.leaving && l.movedOff) return ['ok', 'Nobody sends to it any more', l.warned ? 'AWS takes it within two minutes of its warning.' : ''];
  if (l.leaving && !live) return ['wait', 'No agent is known', 'So nobody can say that all have moved off, and the deadline decides.'];
  if (l.leaving) return ['wait', 'Draining', ''];
  if (l.awaited) {
    return ['wait', 'Awaited', 'It is listed once its port answers. If that takes long, see whether the collector has started, and whether this directory may reach its port.'];
  }
  if (l.silent) {
    return ['warn', 'Given up', 'Its port never answered, and it is listed all the same. Check the collector; if it is well, let this directory reach its port.'];
  }
  return null;
}
/** For the fleet's line: drains that are held up. */
function summary(lives) {
  const held = lives.filter((l) => l.leaving && l.holders.length);
  const names = new Set(held.flatMap((l) => l.holders));
  return held.length ? `${plural(held.length, 'drain')} held by ${plural(names.size, 'agent')}` : '';
}
const busy = (lives) => lives.some((l) => l.awaited || (l.leaving && !l.movedOff));

// ---- drawing
function make(name, redraw) {
  const p = { all: false };
  p.title = h('h4', null, 'Coming and going');
  p.list = { el: h('ol', 'lives'), map: new Map() };
  p.list.el.setAttribute('aria-label', `Instances of ${name} on their way in or out`);
  p.more = button('', () => { p.all = true; redraw(); }, 'small more');
  p.el = h('section', 'life-box', p.title, p.list.el, p.more);
  return p;
}
function draw(p, lives, live, young) {
  p.el.hidden = !lives.length;
  const shown = p.all ? lives : lives.slice(0, Math.max(SHOWN, lives.filter(underWay).length));
  const said = new Set(); // what to do is said once
  keyed(p.list, shown, (l) => l.id, makeLife, (n, l, isNew) => {
    const note = standing(l, live);
    drawLife(n, l, note, note && !said.has(note[2]));
    if (note) said.add(note[2]);
    if (isNew && !young) flash(n.el);
  });
  p.more.hidden = shown.length === lives.length;
  if (!p.more.hidden) put(p.more, `Show ${num(lives.length - shown.length)} more`);
}
function makeLife() {
  const n = { id: h('code', 'lid'), icon: icon('wait'), title: h('b'), names: h('span', 'holders'), todo: h('span', 'todo'), all: false };
  n.steps = { el: h('ol', 'steps'), map: new Map() };
  n.more = button('', () => { n.all = true; n.draw(); }, 'link');
  n.note = h('p', 'standing', n.icon, h('span', null, n.title, ' ', n.names, ' ', n.more, ' ', n.todo));
  n.el = h('li', 'life', n.id, n.steps.el, n.note);
  return n;
}
function drawLife(n, l, note, explain) {
  n.draw = () => drawLife(n, l, note, explain);
  put(n.id, l.id);
  cls(n.el, 'gone', l.gone);
  const last = l.steps.length - 1;
  const steps = l.steps.map((s, i) => {
    const before = i ? l.steps[i - 1].at : null;
    return { ...s, gap: before == null ? null : s.at - before, clock: !i || i === last || s.at - before >= APART };
  });
  keyed(n.steps, steps, (s) => s.key, (s) => {
    const m = { gap: h('span', 'gap'), word: h('span', 'step-word'), at: h('time') };
    m.el = h('li', `step step-${s.key}`, m.gap, ' ', m.word, ' ', m.at);
    return m;
  }, (m, s) => {
    put(m.gap, s.gap == null ? '' : s.gap < 50 ? '→' : `→ +${short(s.gap)}`);
    put(m.word, s.label);
    put(m.at, s.clock ? clock(s.at) : '');
    attr(m.el, 'title', full(s.at));
    attr(m.at, 'datetime', new Date(s.at).toISOString());
  });
  n.note.hidden = !note;
  if (!note) return;
  setIcon(n.icon, note[0]);
  const few = n.all || l.holders.length <= NAMED + 1 ? l.holders.length : NAMED;
  const named = l.leaving && l.holders.length;
  put(n.title, note[1] + (named ? ':' : '.'));
  put(n.names, named ? l.holders.slice(0, few).join(', ') + (few === l.holders.length ? '.' : '') : '');
  n.more.hidden = !named || few === l.holders.length;
  if (!n.more.hidden) put(n.more, `and ${num(l.holders.length - few)} more`);
  put(n.todo, explain ? note[2] : '');
}
/** "2.1 s", "48 s", "3 min 5 s" */
const short = (ms) => (ms < 9_950 ? `${(ms / 1000).toFixed(1)} s` : span(Math.round(ms / 1000) * 1000));

return { read, summary, busy, make, draw };
};
