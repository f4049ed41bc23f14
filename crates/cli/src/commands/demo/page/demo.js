// The demo's part of the page: what flows in each fleet, the account of every line, and buttons that do harm.
//
// Not there without the demo. Plain DOM, built with textContent only, updated in place; it shares nothing with
// the page's own script.
'use strict';
(() => {

const EVERY = 1_000;             // ms between fetches
const TIMEOUT = 4_000;           // ms for one
const HOLD = 400;                // ms a pressed button takes no further press
const WIDE = 90, HIGH = 40;      // of a curve, in its own units: a second is one of them

const BUTTONS = [
  ['scale-out', 'Scale out', 'Launch one more collector. It is listed once its port answers.'],
  ['scale-in', 'Scale in', 'Terminate a collector. It drains: agents wait for its acks, then its hook is completed.'],
  ['spot-kill', 'Spot-kill', 'EC2 warns that it takes a collector, and takes it two minutes later (less with --speed).'],
  ['kill', 'Kill at once', 'A collector is gone without a warning: its connections are reset.'],
  ['hang', 'Hang one', 'A collector hangs: its connections stay, but it reads and acks nothing. Agents leave it after 10 s of silence.'],
  ['stop-all', 'Stop all 30 s', 'Every collector is stopped, and starts again after 30 s (less with --speed). Everything waits on the proxies’ disks.'],
  ['restart-agent', 'Drop an agent', 'An agent ends without a stop: acks under way are lost, so that some lines come twice. It starts again 2 s later.'],
];
const WORDS = { // short for a pillar, long for who points at it
  __proto__: null, takes: ['', 'takes lines'], hangs: ['hangs', 'hangs'], starts: ['boots', 'starts'],
  stopped: ['off', 'stopped'], drains: ['drains', 'drains: nothing new comes'],
};
const IDLE = 'Press something: nothing gets lost.';

const h = (tag, cls, ...kids) => {
  const el = document.createElement(tag);
  if (cls) el.className = cls;
  el.append(...kids);
  return el;
};
const NS = 'http://www.w3.org/2000/svg';
const s = (tag, attrs, ...kids) => {
  const el = document.createElementNS(NS, tag);
  for (const [name, value] of Object.entries(attrs)) el.setAttribute(name, value);
  el.append(...kids);
  return el;
};
const put = (el, text) => { if (el.textContent !== text) el.textContent = text; };
const num = (n) => String(Math.round(n)).replace(/\B(?=(\d{3})+$)/g, '\u202f');
const clock = (iso) => { const d = new Date(iso); return Number.isNaN(+d) ? '' : d.toLocaleTimeString([], { hour12: false }); };

// ---- the account
function makeAccount(cls) {
  const cell = (name) => { const b = h('b'); return { b, el: h('span', `n-${name}`, b, ` ${name}`) }; };
  const [sent, received, waiting, missing, duplicates] = ['sent', 'received', 'waiting', 'missing', 'duplicates'].map(cell);
  const sum = h('span', 'sum', sent.el, h('i', '', '='), received.el, h('i', '', '+'), waiting.el);
  const checked = h('span', 'n-checked');
  checked.title = 'Only lines that the agents have not any more can be checked: they have arrived, or are missing.';
  return { el: h('p', cls, sum, h('span', 'ends', missing.el, checked, duplicates.el)), sent, received, waiting, missing, checked, duplicates };
}
function drawAccount(account, numbers) {
  for (const key of ['sent', 'received', 'waiting', 'missing', 'duplicates']) put(account[key].b, num(numbers[key]));
  put(account.checked, `of ${num(numbers.settled)} checked`);
  account.missing.el.classList.toggle('bad', numbers.missing > 0);
  account.waiting.el.classList.toggle('much', numbers.waiting > 1_500);
}

// ---- one fleet
const cards = new Map();

function makeCard(name) {
  const agents = h('span', 'sub'), rates = h('p', 'rates'), takers = h('ul', 'takers'), said = h('p', 'said');
  const into = s('path', { class: 'in' }), out = s('path', { class: 'out' }), area = s('path', { class: 'area' });
  const curve = s('svg', { class: 'curve', viewBox: `0 0 ${WIDE} ${HIGH}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' }, area, out, into);
  const account = makeAccount('account');
  const rateIn = h('b'), rateOut = h('b');
  rates.append(h('span', 'key key-in', rateIn, ' in/s'), h('span', 'key key-out', rateOut, ' out/s'));
  const buttons = h('div', 'buttons');
  for (const [press, label, title] of BUTTONS) {
    const button = h('button', 'small', label);
    button.type = 'button';
    button.title = title;
    button.dataset.press = press;
    button.addEventListener('click', () => pressed(name, press, button, said));
    buttons.append(button);
  }
  said.setAttribute('role', 'status');
  const head = h('div', 'card-head', h('h3', '', name), agents);
  const el = h('article', 'flow', head, account.el, rates, curve, takers, buttons, said);
  el.dataset.fleet = name;
  return { el, agents, rateIn, rateOut, into, out, area, takers, said, account, bars: new Map() };
}

function drawCard(card, flow) {
  const all = flow.agents_running === flow.agents;
  put(card.agents, all ? `${flow.agents} proxies` : `${flow.agents_running} of ${flow.agents} agents run`);
  put(card.rateIn, num(flow.rate_in));
  put(card.rateOut, num(flow.rate_out));
  drawAccount(card.account, flow);
  const most = Math.max(50, ...flow.history.map(([a, b]) => Math.max(a, b)));
  const line = (which) => flow.history.map((pair, i) => {
    const x = WIDE - flow.history.length + i + 1, y = HIGH - 1 - (pair[which] / most) * (HIGH - 3);
    return `${i ? 'L' : 'M'}${x} ${y.toFixed(2)}`;
  }).join('');
  const out = line(1);
  card.into.setAttribute('d', line(0));
  card.out.setAttribute('d', out);
  card.area.setAttribute('d', out && `${out}L${WIDE} ${HIGH}L${WIDE - flow.history.length + 1} ${HIGH}Z`);
  drawTakers(card, flow);
  const words = flow.stopped_s == null ? flow.said || '' : `All collectors are stopped, ${flow.stopped_s} s to go.`;
  const time = flow.stopped_s == null && flow.said_at ? `${clock(flow.said_at)} ` : '';
  if (!card.failed) put(card.said, time + words);
  card.said.classList.toggle('hot', flow.stopped_s != null);
}

function drawTakers(card, flow) {
  const total = flow.collectors.reduce((sum, one) => sum + one.rate, 0);
  const most = Math.max(1, ...flow.collectors.map((one) => one.rate));
  const seen = new Set();
  for (const one of flow.collectors) {
    seen.add(one.id);
    let bar = card.bars.get(one.id);
    if (!bar) {
      const fill = h('span', 'pillar-fill'), share = h('span', 'share'), name = h('span', 'octet');
      const el = h('li', 'taker', share, h('span', 'pillar', fill), name);
      card.bars.set(one.id, bar = { el, fill, share, name });
      card.takers.append(el);
    }
    bar.el.dataset.state = one.state;
    bar.fill.style.height = `${(one.rate / most) * 100}%`;
    put(bar.share, one.state === 'takes' ? `${total ? Math.round((one.rate / total) * 100) : 0}%` : (WORDS[one.state] || [''])[0]);
    put(bar.name, `.${one.address.split(':')[0].split('.').pop()}`);
    bar.el.title = `${one.id}\n${one.address}\n${(WORDS[one.state] || ['', ''])[1]}, ${num(one.rate)} events/s`;
  }
  for (const [id, bar] of card.bars) if (!seen.has(id)) { bar.el.remove(); card.bars.delete(id); }
}

async function pressed(fleet, press, button, said) {
  const card = cards.get(fleet);
  button.disabled = true;
  setTimeout(() => { button.disabled = false; }, HOLD);
  let failed = '';
  try {
    const res = await fetch(`demo/${fleet}/${press}`, { method: 'POST', headers: { 'X-Pikepole-Demo': '1' } });
    if (!res.ok) failed = await res.text();
  } catch { failed = 'The demo does not answer.'; }
  card.failed = !!failed;
  if (failed) { put(said, failed); setTimeout(() => { card.failed = false; }, 3_000); } else look();
}

// ---- all of it
const total = makeAccount('account total');
const grid = h('div', 'flow-grid');
const why = h('details', 'why', h('summary', '', 'How is this counted?'), h('p', '',
  'Every line that a simulated proxy writes into its access log has a number, and every collector notes each number it gets. ' +
  'Sent: lines written. Received: numbers that some collector has, each counted once. ' +
  'Missing: a number that no collector has although its agent said that it had read the line, and seconds later that its spool has nothing as old. ' +
  'So lines are checked some seconds after they were written; how many were is shown beside it. ' +
  'Waiting: the rest, in the file, under way, or on the disk in the agent’s spool: sent − received − missing. ' +
  'Duplicates: numbers that came again, because delivery is at least once: what was not acked is sent again.'));
const section = h('section', 'demo', h('div', 'demo-head', h('h2', '', 'Every line'), total.el, why), grid);
section.id = 'demo';
section.setAttribute('aria-label', 'Flows of the demo');
section.hidden = true;
document.getElementById('main').insertBefore(section, document.getElementById('tools'));

function draw(flows) {
  const sums = { sent: 0, received: 0, waiting: 0, missing: 0, duplicates: 0, settled: 0 };
  for (const flow of flows) {
    for (const key of Object.keys(sums)) sums[key] += flow[key];
    let card = cards.get(flow.fleet);
    if (!card) { cards.set(flow.fleet, card = makeCard(flow.fleet)); grid.append(card.el); }
    drawCard(card, flow);
  }
  drawAccount(total, sums);
  section.hidden = false;
}

let asking = false;
async function look() {
  if (asking || document.hidden) return;
  asking = true;
  try {
    const res = await fetch('demo/flows.json', { cache: 'no-store', signal: AbortSignal.timeout(TIMEOUT) });
    if (res.ok) { draw(await res.json()); section.classList.remove('stale'); }
  } catch { section.classList.add('stale'); } finally { asking = false; }
}
setInterval(look, EVERY);
document.addEventListener('visibilitychange', look);
look();
})();
