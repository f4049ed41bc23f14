// The live page. Plain DOM, built with textContent only, updated in place by key.
//
// Data comes in on two ways: the watch (whole rosters, pushed) and the fleet states (fetched). Each
// fetch carries the number of the moment it began and each push that of the moment it arrived; for
// each fleet the newer number wins, so a slow answer never undoes a fresh push.
'use strict';
(() => {

// ---- limits
const POLL = 10_000;             // ms between fetches of all fleets
const POLL_HIDDEN = 30_000;      // the same while nobody looks
const REFETCH = 1_000;           // ms between fetches that follow pushes
const TIMEOUT = 8_000;           // ms for one fetch
const SILENCE = 40_000;          // ms without a byte: the watch is dead (the server speaks every 15 s)
const BACKOFF_MAX = 15_000;      // ms between reconnects
const HIDDEN_GRACE = 60_000;     // ms until a hidden page gives its connection back
const EVENT_MAX = 16 << 20;      // characters of one event
const ROWS = 200;                // collectors shown before "more"
const LINES = 6;                 // members of one change shown before "more"
const FRESH = 4_000;             // ms a change stays highlighted
const FEW = 6;                   // fleets that are asked for one by one
const SETTLING = 15_000;         // ms in which agents mostly have applied a new list

// ---- small tools
const $ = (id) => document.getElementById(id);
const base = location.origin + location.pathname.replace(/[^/]*$/, ''); // never with a password in it
const collator = new Intl.Collator('en', { numeric: true });
const now = () => performance.now();
const plural = (n, one, many = one + 's') => `${num(n)} ${n === 1 ? one : many}`;
const cap = (s) => s.charAt(0).toUpperCase() + s.slice(1);
const num = (n) => String(n).replace(/\B(?=(\d{3})+$)/g, '\u202f');

function h(tag, cls, ...kids) {
  const el = document.createElement(tag);
  if (cls) el.className = cls;
  for (const kid of kids) if (kid != null) el.append(kid);
  return el;
}
function put(el, text) {
  if (el._text !== text) { el._text = text; el.textContent = text; }
}
function cls(el, name, on) { el.classList.toggle(name, !!on); }
function attr(el, name, value) {
  if (value == null) el.removeAttribute(name);
  else if (el.getAttribute(name) !== value) el.setAttribute(name, value);
}
function button(label, click, className = 'small') {
  const el = h('button', className, label);
  el.type = 'button';
  el.addEventListener('click', click);
  return el;
}
const SHAPES = {
  ok: ['M8 1.75a6.25 6.25 0 1 0 0 12.5 6.25 6.25 0 0 0 0-12.5Z', 'm5.3 8.2 1.9 1.9 3.6-4'],
  wait: ['M8 1.75a6.25 6.25 0 1 0 0 12.5 6.25 6.25 0 0 0 0-12.5Z', 'M8 4.7V8l2.2 1.5'],
  warn: ['M8 1.9 15 14H1Z', 'M8 6.3v3.4M8 11.8v.01'],
  crit: ['M5.2 1.2h5.6l4 4v5.6l-4 4H5.2l-4-4V5.2Z', 'M8 4.5v4.2M8 11.2v.01'],
};
const NS = 'http://www.w3.org/2000/svg';
function icon(state) {
  const el = document.createElementNS(NS, 'svg');
  el.setAttribute('viewBox', '0 0 16 16');
  el.setAttribute('aria-hidden', 'true');
  el.append(document.createElementNS(NS, 'path'), document.createElementNS(NS, 'path'));
  setIcon(el, state);
  return el;
}
function setIcon(el, state) {
  if (el._state === state) return;
  el._state = state;
  el.setAttribute('class', `icon icon-${state}`);
  SHAPES[state].forEach((d, i) => el.children[i].setAttribute('d', d));
}
/** Brings the children of `parent` into the order of `els`, moving as few as it simply can. */
function arrange(parent, els) {
  let at = parent.firstChild;
  for (const el of els) {
    if (el === at) { at = at.nextSibling; continue; }
    if (at && at.nextSibling === el) { // `at` moves away or goes later: step over it
      const away = at;
      at = el.nextSibling;
      parent.append(away);
      continue;
    }
    parent.insertBefore(el, at);
  }
}
/** Keeps `list = {el, map}` in step with `items`, keyed. */
function keyed(list, items, key, make, update) {
  const wanted = new Map();
  for (const item of items) { const k = key(item); if (!wanted.has(k)) wanted.set(k, item); }
  for (const [k, node] of list.map) if (!wanted.has(k)) { node.el.remove(); list.map.delete(k); }
  const els = [];
  for (const [k, item] of wanted) {
    let node = list.map.get(k);
    const isNew = !node;
    if (isNew) list.map.set(k, node = make(item));
    update(node, item, isNew);
    els.push(node.el);
  }
  arrange(list.el, els);
}
function flash(el) {
  clearTimeout(el._fresh);
  el.classList.add('fresh');
  el._fresh = setTimeout(() => el.classList.remove('fresh'), FRESH);
}

// ---- time
let offset = null;               // ms to add to this device's clock to have the server's
let utc = false;
try { utc = localStorage.getItem('pikepole-times') === 'utc'; } catch { /* storage may be forbidden */ }

const serverNow = () => Date.now() + (offset || 0);
const parse = (iso) => { const ms = Date.parse(iso); return Number.isFinite(ms) ? ms : null; };
const two = (n) => String(n).padStart(2, '0');
const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

function parts(ms, inUtc = utc) {
  const d = new Date(ms);
  return inUtc
    ? { y: d.getUTCFullYear(), m: d.getUTCMonth(), d: d.getUTCDate(), t: `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}:${two(d.getUTCSeconds())}` }
    : { y: d.getFullYear(), m: d.getMonth(), d: d.getDate(), t: `${two(d.getHours())}:${two(d.getMinutes())}:${two(d.getSeconds())}` };
}
const day = (p) => `${p.y}-${two(p.m + 1)}-${two(p.d)}`;
function clock(ms) {
  const p = parts(ms);
  return day(p) === day(parts(serverNow())) ? p.t : `${p.d} ${MONTHS[p.m]} ${p.t}`;
}
function full(ms) {
  const u = parts(ms, true), l = parts(ms, false);
  return `${day(u)} ${u.t} UTC` + (u.t === l.t ? '' : ` · ${day(l)} ${l.t} here`);
}
function span(ms, short) {
  const s = Math.max(0, Math.floor(ms / 1000)), m = Math.floor(s / 60), hours = Math.floor(m / 60);
  const two = (big, small) => (short || small[0] === '0' ? big : `${big} ${small}`);
  if (s < 60) return `${s} s`;
  if (m < 60) return m < 10 ? two(`${m} min`, `${s % 60} s`) : `${m} min`;
  return hours < 24 ? two(`${hours} h`, `${m % 60} min`) : plural(Math.floor(hours / 24), 'day');
}
const ago = (ms, short) => { const d = serverNow() - ms; return d < 1000 ? 'just now' : `${span(d, short)} ago`; };

/** A time that ticks: `before` + "4 s ago". */
function timeEl(className, short) {
  const el = h('time', `rel ${className || ''}`);
  el._short = short;
  return el;
}
function setTime(el, ms, before = '', none = '') {
  el._ms = ms; el._before = before;
  if (ms == null) { put(el, none); attr(el, 'title', null); attr(el, 'datetime', null); return; }
  if (el._was !== ms) { el._was = ms; attr(el, 'title', full(ms)); attr(el, 'datetime', new Date(ms).toISOString()); }
  put(el, before + ago(ms, el._short));
}
function learnClock(res, sent) {
  const date = Date.parse(res.headers.get('Date') || '');
  if (!Number.isFinite(date)) return;
  const got = date + 500 - (sent + Date.now()) / 2; // the header has whole seconds
  offset = offset == null || Math.abs(got - offset) > 1500 ? got : offset + (got - offset) / 8;
}

// ---- what the server says
const obj = (v) => (v && typeof v === 'object' && !Array.isArray(v) ? v : {});
const arr = (v) => (Array.isArray(v) ? v : []);
const str = (v) => (v == null ? '' : String(v));
const count = (v) => (Number.isFinite(v) ? v : 0);
const RANK = { __proto__: null, draining: 0, last_resort: 1, active: 2 };
const WORD = { __proto__: null, active: 'active', last_resort: 'last resort', draining: 'draining' };
const word = (state) => WORD[state] || str(state).replace(/_/g, ' ');

function readRoster(raw) {
  if (!raw || !Array.isArray(raw.members)) return null; // unknown, which is not empty
  const members = raw.members.map((m) => ({
    id: str(obj(m).instance_id), address: str(obj(m).address), zone: str(obj(m).zone), state: str(obj(m).state),
  }));
  members.sort((a, b) => (RANK[a.state] ?? -1) - (RANK[b.state] ?? -1) || collator.compare(a.address, b.address));
  const counts = { __proto__: null, active: 0, last_resort: 0, draining: 0 };
  for (const m of members) counts[m.state] = (counts[m.state] || 0) + 1;
  return { revision: raw.revision, published: parse(raw.published_at), members, counts };
}
/** The members a plain list of hosts contains. */
function sendable(roster) {
  for (const state of ['active', 'last_resort', 'draining']) {
    const some = roster.members.filter((m) => m.state === state);
    if (some.length) return some;
  }
  return [];
}

const lives = pikepoleLives({ h, put, cls, attr, button, keyed, flash, icon, setIcon, parse, clock, full, span, plural, num, str, arr, obj });
const fleets = new Map();        // name -> fleet
let seq = 0;                     // the moments
let loaded = false;              // the first answer is here

function fleetNamed(name) {
  let f = fleets.get(name);
  if (!f) {
    f = { name, meta: {}, roster: null, changes: null, lives: [], metaSeq: 0, rosterSeq: 0, known: false, view: null };
    fleets.set(name, f);
  }
  return f;
}
function takeState(raw, at) {
  const r = obj(raw);
  if (!r.fleet) return;
  const f = fleetNamed(str(r.fleet));
  if (at >= f.metaSeq) {
    const s = obj(r.source), g = obj(r.guard), e = s.last_error && obj(s.last_error);
    f.metaSeq = at;
    f.known = true;
    f.meta = {
      dc: str(r.dc), region: str(r.region), port: r.port,
      kind: str(s.kind), group: str(s.group), source: str(s.state),
      attempt: parse(s.last_attempt_at), success: parse(s.last_success_at),
      error: e ? { at: parse(e.at), message: str(e.message) } : null, failures: count(s.consecutive_failures),
      confirmed: parse(r.confirmed_at), stale: r.stale === true,
      holding: g.state === 'holding', reason: str(g.reason), holdSince: parse(g.since), reads: count(g.reads),
      alerts: arr(r.alerts).map((a) => ({ kind: str(obj(a).kind), since: parse(obj(a).since), detail: str(obj(a).detail) })),
      watchers: Number.isFinite(r.watchers) ? r.watchers : null,
      agents: count(obj(r.convergence).live), applied: count(obj(r.convergence).applied), awaited: count(obj(r.convergence).awaited),
    };
    if (Array.isArray(r.changes)) f.changes = r.changes;
    if (Array.isArray(r.lives)) f.lives = lives.read(r.lives);
  }
  if (r.roster !== undefined) takeRoster(f, r.roster, at);
  if (f.rosterSeq > at && f.roster && f.roster.revision !== obj(r.roster).revision) wantState(f.name); // a push overtook it
  if (isMoving(f)) wantState(f.name);
  dirty(f);
}
/** Whether somebody waits for something here, so that the next second brings news. */
function isMoving(f) {
  if (document.hidden || !f.view) return false;
  if (f.view.open) return f.meta.awaited > 0 || lives.busy(f.lives);
  // A new list needs a moment to be applied; with many fleets the next poll is soon enough.
  return fleets.size <= FEW && f.meta.applied < f.meta.agents && f.changedAt > now() - SETTLING;
}
function takeRoster(f, raw, at) {
  if (at < f.rosterSeq) return false;
  f.rosterSeq = at;
  const revision = raw == null ? null : raw.revision;
  if (f.roster && raw && f.roster.revision === revision) return false;
  f.roster = readRoster(raw);
  f.changedAt = now();
  return true;
}

// ---- what is wrong, and what to do
const CRIT = 3, WARN = 2, WAIT = 1, OK = 0;
const LEVEL = ['ok', 'wait', 'warn', 'crit'];
const LEVEL_WORD = ['Steady', 'Waiting', 'Warning', 'Critical'];

const served = (f) => (f.roster
  ? 'Proxies keep the last good roster.'
  : 'There is no roster to serve yet; proxies keep what they have.');
const ADVICE = {
  __proto__: null, // words come from the server
  source_failing: [WARN, 'The source is failing', (f) => `${served(f)} ${f.meta.kind === 'file'
    ? 'Check that the file exists, can be read and is valid JSON.'
    : 'Check that this directory reaches the AWS API of the region, and that its credentials are valid and may describe Auto Scaling groups and instances.'}`],
  throttled: [WARN, 'AWS is throttling', (f) => `${served(f)} The directory asks less often by itself. Find out who else calls AWS from this account and region.`],
  guard_holding: [WARN, 'The guard is holding the roster', (f) => `${served(f)} Look at the group in AWS. If it really shrank, wait: a shrink is believed after three equal reads over at least a minute. An empty answer is never believed while the group wants instances.`],
  fleet_stale: [WARN, 'The roster is stale', () => 'The source has not confirmed this list for too long: new collectors may be missing from it. Find out why the source does not answer.'],
  fleet_missing: [CRIT, 'The group does not exist', (f) => `${served(f)} Check the group’s name, region and account in the configuration; if it was deleted on purpose, remove the fleet.`],
  fleet_empty: [CRIT, 'No collectors', () => 'Proxies have nowhere to send, and their disks fill up. Check the group’s desired capacity and its failed launches in AWS.'],
  store_failing: [WARN, 'The store is failing', () => 'Rosters are served from memory. Check the store’s disk or Redis before this directory is restarted.'],
  store_quarantined: [WARN, 'A stored file was put aside', () => 'The fleet is rebuilt from its source. Find out what damaged the file.'],
  no_active: [WARN, 'No active collector', () => 'Last-resort collectors carry everything, and AWS may take them soon. Check that the group launches new ones.'],
  all_draining: [CRIT, 'Every collector is draining', () => 'Proxies still send to them because there is nothing else. Check that the group launches new ones.'],
  probe_gave_up: [WARN, 'A new collector does not answer', () => 'It is listed although its port never answered. See whether it has started; if it is well, let this directory reach its port, or switch the probe off.'],
  drain_deadline: [WARN, 'A drain ended at its deadline', () => 'Those agents may have lost what they had just sent. Look at these proxies: perhaps their shipper does not reload, or hangs.'],
  hook_failing: [WARN, 'A lifecycle hook cannot be completed', () => 'The instance waits until the hook times out by itself. Check that this directory may call autoscaling:CompleteLifecycleAction.'],
  queue_failing: [WARN, 'A queue cannot be read', () => 'Events come late or not at all; launches and ends are only seen at the next look at AWS. Check the queue’s URL, and that this directory may receive and delete its messages.'],
  topic_unsubscribed: [WARN, 'A topic no longer sends its messages', () => 'Events come late or not at all. Subscribe this directory to the topic again, and find out who ended the subscription.'],
  too_many_agents: [WARN, 'Too many agents', () => 'While some find no place no drain ends before its deadline. Look for a host that invents agent ids.'],
  no_roster: [CRIT, 'Nothing to serve', () => 'The source has never answered, so nobody knows this fleet’s collectors. This is not an empty fleet.'],
};
function problems(f) {
  const { meta: m, roster: r } = f;
  const list = [];
  const add = (kind, since, detail) => {
    if (list.some((p) => p.kind === kind)) return;
    const [level, title, todo] = ADVICE[kind] || [WARN, cap(kind.replace(/_/g, ' ')), null];
    list.push({ kind, since, detail, level, title, todo: todo ? todo(f) : '' });
  };
  const empty = r && !r.members.length;
  for (const a of m.alerts || []) if (a.kind) add(a.kind, a.since, a.detail);
  if (m.source === 'missing') add('fleet_missing', m.attempt, m.group ? `The source says there is no “${m.group}”.` : '');
  if (m.source === 'failing') add('source_failing', m.error && m.error.at, m.error ? m.error.message : '');
  if (m.source === 'throttled') add('throttled', m.error && m.error.at, m.error ? m.error.message : '');
  if (m.holding) add('guard_holding', m.holdSince, m.reason);
  if (m.stale) add('fleet_stale', m.confirmed, '');
  if (empty) add('fleet_empty', r.published, 'The source confirmed that the fleet has no collectors.');
  if (!r && (m.source === 'failing' || m.source === 'throttled')) add('no_roster', null, '');
  if (r && !empty && !r.counts.active) {
    if (r.counts.last_resort) add('no_active', r.published, `${plural(r.counts.last_resort, 'last-resort collector')} left.`);
    else if (r.counts.draining) add('all_draining', r.published, `${plural(r.counts.draining, 'collector')} left.`);
  }
  list.sort((a, b) => b.level - a.level);
  return list;
}
function levelOf(f, list) {
  if (list.length) return list[0].level;
  return f.roster ? OK : WAIT;
}

// ---- rendering: when
const dirtyFleets = new Set();
let orderDirty = true, scheduled = false, drawn = false;

function dirty(f) { dirtyFleets.add(f); schedule(); }
function redrawAll() { for (const f of fleets.values()) dirtyFleets.add(f); orderDirty = true; schedule(); }
function schedule() {
  if (scheduled || pollOk === null) return; // the first picture waits for the first answer
  scheduled = true;
  if (document.hidden) setTimeout(flush, 200); else requestAnimationFrame(flush);
}
function flush() {
  scheduled = false;
  const hold = holdPlace();
  for (const f of dirtyFleets) {
    if (fleets.get(f.name) !== f) continue;
    f.problems = problems(f);
    const level = levelOf(f, f.problems);
    const match = matches(f);
    if (!f.view) { f.view = makeRow(f); orderDirty = true; }
    if (level !== f.level || !!match !== !!f.match) orderDirty = true;
    f.level = level;
    f.match = match;
    if (match) drawRow(f);
  }
  dirtyFleets.clear();
  if (orderDirty) { orderDirty = false; drawGroups(); }
  drawSummary();
  hold();
  if (loaded && !drawn) { drawn = true; followHash(); }
}
/** Remembers what the reader looks at, and puts it back to the same place after a change above it. */
function holdPlace() {
  const focus = document.activeElement;
  let anchor = focus && focus.closest && focus.closest('.fleet');
  const seen = (el) => { const r = el.getBoundingClientRect(); return r.bottom > 60 && r.top < innerHeight; };
  if (anchor && !seen(anchor)) anchor = null;
  if (!anchor && scrollY > 8) for (const el of document.querySelectorAll('.fleet')) if (seen(el)) { anchor = el; break; }
  const top = anchor && anchor.getBoundingClientRect().top;
  return () => {
    if (focus && focus !== document.activeElement && focus.isConnected && focus !== document.body) focus.focus({ preventScroll: true });
    if (!anchor || !anchor.isConnected) return;
    const moved = anchor.getBoundingClientRect().top - top;
    if (Math.abs(moved) > 1) scrollBy({ top: moved, behavior: 'instant' });
  };
}

// ---- filter
let query = [];
function matches(f) {
  if (!query.length) return { rest: [] };
  const m = f.meta;
  const hay = `${f.name} ${m.dc} ${m.region} ${m.group}`.toLowerCase();
  const rest = query.filter((q) => !hay.includes(q));
  if (!rest.length) return { rest };
  const hits = f.roster ? f.roster.members.filter((x) => hit(x, rest)) : [];
  return hits.length ? { rest, hits } : null;
}
function hit(member, rest) {
  const hay = `${member.id} ${member.address} ${member.zone} ${word(member.state)}`.toLowerCase();
  return rest.every((q) => hay.includes(q));
}

// ---- groups and summary
const GROUPS = [
  { title: 'Needs attention', has: (f) => f.level >= WARN },
  { title: 'Waiting for a first answer', has: (f) => f.level === WAIT },
  { title: 'Steady', has: (f) => f.level === OK },
];
for (const [i, g] of GROUPS.entries()) {
  g.n = h('span', 'n');
  g.head = h('h2', null, g.title, g.n);
  g.head.id = `g${i}`;
  g.list = h('div', 'fleets');
  g.el = h('section', 'group', g.head, g.list);
  g.el.setAttribute('aria-labelledby', g.head.id);
  g.el.hidden = true;
  $('groups').append(g.el);
}
function drawGroups() {
  const all = [...fleets.values()].filter((f) => f.view).sort((a, b) => b.level - a.level || collator.compare(a.name, b.name));
  let shown = 0;
  for (const g of GROUPS) {
    const mine = all.filter((f) => f.match && g.has(f));
    shown += mine.length;
    put(g.n, num(mine.length));
    g.el.hidden = !mine.length;
    arrange(g.list, mine.map((f) => f.view.el));
  }
  for (const f of all) if (!f.match) f.view.el.remove();
  put($('shown'), query.length ? `${num(shown)} of ${num(all.length)}` : '');
  $('tools').hidden = all.length < 2 && !query.length;
  drawBlank(all.length, shown);
}
function drawBlank(total, shown) {
  const el = $('blank');
  const kind = !loaded ? '' : !total ? 'none' : !shown ? 'filter' : '';
  el.hidden = !kind;
  if (el._kind === kind) return;
  el._kind = kind;
  el.replaceChildren();
  if (kind === 'none') {
    el.append(h('h2', null, 'No fleets configured'),
      h('p', null, 'The directory runs, but nobody told it which collectors to look after. Add a fleet to its configuration and restart it:'),
      h('pre', null, '[[fleet]]\nname = "logstash-mumbai"\ndc = "some-dc"\nregion = "ap-south-1"\nport = 5044\nsource = { kind = "aws", asg = "some-dc-asg-name" }'));
  } else if (kind === 'filter') {
    el.append(h('h2', null, 'Nothing matches'), h('p', null, 'No fleet and no collector has these words in its name, place, id or address.'),
      button('Clear the filter', () => { $('filter').value = ''; refilter(); $('filter').focus(); }));
  }
}
const stats = {};
function stat(key, label, mark) {
  const n = h('b');
  const el = h('li', null, mark ? h('span', `st st-${mark}`) : null, n, ' ', label);
  $('stats').append(el);
  stats[key] = { n, el };
}
stat('active', 'active', 'active');
stat('last_resort', 'last resort', 'last_resort');
stat('draining', 'draining', 'draining');
stat('agents', 'agents');
stat('watchers', 'watchers');

let bad = 0;
function drawSummary() {
  const sum = { active: 0, last_resort: 0, draining: 0, agents: 0, watchers: null };
  let total = 0, waiting = 0, dry = 0;
  bad = 0;
  for (const f of fleets.values()) {
    total++;
    if (f.level >= WARN) bad++;
    if (f.level === CRIT) dry++;
    if (f.level === WAIT) waiting++;
    if (f.roster) for (const s of ['active', 'last_resort', 'draining']) sum[s] += f.roster.counts[s];
    sum.agents += f.meta.agents || 0;
    if (f.meta.watchers != null) sum.watchers = (sum.watchers || 0) + f.meta.watchers;
  }
  for (const [key, s] of Object.entries(stats)) {
    s.el.hidden = sum[key] == null;
    put(s.n, num(sum[key] || 0));
    cls(s.el, 'zero', !sum[key]);
  }
  $('stats').hidden = !total;
  const verdict = $('verdict');
  let text;
  if (!loaded) text = total ? 'Asking the directory…' : verdict.textContent;
  else if (!total) text = 'No fleets yet';
  else if (bad) text = total === 1 ? 'The fleet needs attention' : `${num(bad)} of ${plural(total, 'fleet')} ${bad === 1 ? 'needs' : 'need'} attention`;
  else if (waiting) text = waiting === total ? 'Waiting for the first answer' : `${plural(total - waiting, 'fleet')} steady, ${num(waiting)} waiting`;
  else text = total === 1 ? 'The fleet is steady' : `All ${num(total)} fleets are steady`;
  put(verdict, text);
  put($('more'), loaded && bad ? [dry && `${num(dry)} critical`, bad - dry && plural(bad - dry, 'warning'), waiting && `${num(waiting)} waiting`].filter(Boolean).join(', ') : '');
  attr(verdict, 'data-level', bad ? (dry ? 'crit' : 'warn') : loaded && total && !waiting ? 'ok' : 'wait');
  drawTitle();
}
function drawTitle() {
  const note = locked ? 'locked' : offline() ? 'offline' : bad ? plural(bad, 'problem') : '';
  const title = note ? `${note} · Pikepole` : 'Pikepole';
  if (document.title !== title) document.title = title;
}

// ---- one fleet: its row
let ids = 0;
function makeRow(f) {
  const v = { open: false, panel: null, id: `f${++ids}` };
  v.icon = icon('wait');
  v.level = h('span', 'sr');
  v.name = h('span', 'name', f.name);
  v.place = h('span', 'place');
  v.bar = h('span', 'bar');
  v.bar.setAttribute('aria-hidden', 'true');
  v.counts = h('span', 'counts');
  v.segs = {};
  for (const s of ['active', 'last_resort', 'draining']) {
    const seg = h('span', `seg seg-${s}`), n = h('b'), text = h('span', 'count', h('span', `st st-${s}`), n, ` ${WORD[s]}`);
    v.bar.append(seg);
    v.counts.append(text);
    v.segs[s] = { seg, n, text };
  }
  v.plain = h('span', 'plain');
  v.counts.append(v.plain);
  v.crew = h('span', 'crew');
  v.age = timeEl('age', true);
  v.changed = timeEl('changed', true);
  v.issue = h('span', 'issue');
  v.issueTitle = h('b');
  v.issueText = h('span');
  v.issue.append(v.issueTitle, v.issueText);
  v.hits = h('span', 'hits');
  v.head = button('', () => setOpen(f, !v.open, true), 'row');
  v.head.append(v.icon, v.level, h('span', 'who', v.name, v.place), h('span', 'load', v.bar, v.counts, v.crew), v.age, v.changed, h('span', 'chev'), v.issue, v.hits);
  v.head.setAttribute('aria-expanded', 'false');
  v.body = h('div', 'panel');
  v.body.id = v.id;
  v.body.hidden = true;
  v.head.setAttribute('aria-controls', v.id);
  v.el = h('article', 'fleet', h('h3', null, v.head), v.body);
  return v;
}
function drawRow(f) {
  const { view: v, meta: m, roster: r } = f;
  attr(v.el, 'data-level', LEVEL[f.level]);
  setIcon(v.icon, LEVEL[f.level]);
  put(v.level, `${LEVEL_WORD[f.level]}: `);
  put(v.place, [m.dc, m.region].filter(Boolean).join(' · '));

  const total = r ? r.members.length : 0;
  attr(v.bar, 'data-kind', !r ? 'unknown' : total ? null : 'empty');
  for (const s of ['active', 'last_resort', 'draining']) {
    const n = r ? r.counts[s] : 0, seg = v.segs[s];
    if (seg.was !== n) { seg.was = n; seg.seg.style.flexGrow = String(n); cls(seg.seg, 'none', !n); }
    put(seg.n, num(n));
    seg.text.hidden = !total || (!n && s !== 'active');
  }
  put(v.plain, total ? '' : r ? 'Empty: no collectors' : m.source === 'missing' ? 'No such group' : f.known ? 'Not known yet' : '');
  put(v.crew, [
    m.awaited ? `${plural(m.awaited, 'newcomer')} awaited` : '',
    lives.summary(f.lives),
    m.agents ? `agents ${num(m.applied)} of ${num(m.agents)} on this revision` : '',
  ].filter(Boolean).join(' · '));
  v.crew.hidden = !v.crew._text;
  setTime(v.age, m.confirmed, m.stale ? 'stale, ' : '', r && f.known ? 'not confirmed' : '');
  cls(v.age, 'plain-age', m.confirmed != null && !m.stale);
  cls(v.age, 'late', m.stale);
  setTime(v.changed, r ? r.published : null, 'changed ');
  if (r && v.revision !== undefined && v.revision !== r.revision) flash(v.el);
  v.revision = r ? r.revision : undefined;

  const first = f.problems[0];
  v.issue.hidden = !first;
  if (first) {
    put(v.issueTitle, first.title);
    put(v.issueText, [cap(first.detail), f.problems.length > 1 ? `+${f.problems.length - 1} more` : ''].filter(Boolean).join(' · '));
  }
  const hits = f.match.hits;
  v.hits.hidden = !hits;
  if (hits) put(v.hits, hits.length > 1 ? `${plural(hits.length, 'collector')} here match the filter` : `${hits[0].address} ${hits[0].id} ${word(hits[0].state)}`);
  if (v.open) drawPanel(f);
}
function setOpen(f, open, byHand) {
  const v = f.view;
  if (!v || v.open === open) return;
  v.open = open;
  v.head.setAttribute('aria-expanded', String(open));
  cls(v.el, 'open', open);
  v.body.hidden = !open;
  if (open) {
    v.panel = makePanel(f);
    v.body.replaceChildren(v.panel.el);
    drawPanel(f);
    if (f.known) wantState(f.name); // lives and changes are only told of a fleet that is asked for
  } else {
    v.panel = null;
    v.body.replaceChildren();
  }
  if (byHand) {
    const mine = `#${encodeURIComponent(f.name)}`;
    if (open) history.replaceState(null, '', mine);
    else if (location.hash === mine) history.replaceState(null, '', location.pathname + location.search);
  }
}

// ---- one fleet: its panel
function makePanel(f) {
  const p = { young: true, all: false };
  p.issues = { el: h('ul', 'issues'), map: new Map() };
  p.title = h('h4', null, 'Collectors');
  p.copy = button('Copy hosts', () => copy(p.copy, f.roster ? sendable(f.roster).map((m) => m.address).join('\n') : ''));
  p.copy.title = 'The addresses proxies send to, one per line';
  p.zones = { el: h('ul', 'zones'), map: new Map() };
  p.zones.el.setAttribute('aria-label', 'Active collectors per zone');
  p.note = h('div', 'note');
  p.rows = { el: h('tbody'), map: new Map() };
  p.rows.el.setAttribute('role', 'rowgroup');
  const cell = (text) => { const el = h('th', null, text); el.scope = 'col'; el.setAttribute('role', 'columnheader'); return el; };
  const headRow = h('tr', null, cell('Address'), cell('Instance'), cell('Zone'), cell('State'));
  headRow.setAttribute('role', 'row');
  const thead = h('thead', null, headRow);
  thead.setAttribute('role', 'rowgroup');
  p.table = h('table', 'members', thead, p.rows.el);
  p.table.setAttribute('role', 'table'); // the phone's layout would take the role away
  p.table.setAttribute('aria-label', `Collectors of ${f.name}`);
  p.more = button('', () => { p.all = true; drawPanel(f); }, 'small more');

  p.facts = {};
  const facts = h('dl', 'facts');
  const fact = (key, label) => {
    const dd = h('dd'), dt = h('dt', null, label);
    facts.append(h('div', null, dt, dd));
    p.facts[key] = dd;
    return dd;
  };
  p.sourceIcon = icon('ok'); p.sourceText = h('span'); p.sourceGroup = h('code'); p.sourceTime = timeEl('sub'); p.sourceError = h('span', 'sub err');
  fact('source', 'Source').append(p.sourceIcon, p.sourceText, p.sourceGroup, p.sourceTime, p.sourceError);
  p.guardIcon = icon('ok'); p.guardText = h('span'); p.guardWhy = h('span', 'sub'); p.guardTime = timeEl('sub');
  fact('guard', 'Guard').append(p.guardIcon, p.guardText, p.guardWhy, p.guardTime);
  p.revision = h('code'); p.published = timeEl('sub');
  fact('revision', 'Revision').append(p.revision, p.published);
  p.confirmed = timeEl();
  fact('confirmed', 'Confirmed').append(p.confirmed);
  p.port = h('span'); fact('port', 'Port').append(p.port);
  p.agents = h('span'); p.behind = h('span', 'sub'); fact('agents', 'Agents').append(p.agents, p.behind);
  p.watchers = h('span'); fact('watchers', 'Watchers').append(p.watchers);

  p.changes = { el: h('ol', 'changes'), map: new Map() };
  p.noChanges = h('p', 'quiet', 'No changes seen yet.');
  p.lives = lives.make(f.name, () => drawPanel(f));
  p.el = h('div', 'inner', p.issues.el, p.lives.el,
    h('div', 'cols',
      h('section', 'left', h('div', 'bar-head', p.title, p.copy), p.zones.el, p.note, p.table, p.more),
      h('section', 'right', h('h4', null, 'Facts'), facts, h('h4', null, 'Last changes'), p.noChanges, p.changes.el)));
  return p;
}
const SOURCE = {
  __proto__: null,
  ok: ['ok', 'ok'], waiting: ['wait', 'waiting for a first answer'], failing: ['warn', 'failing'],
  throttled: ['warn', 'throttled'], elsewhere: ['ok', 'asked by another replica'], missing: ['crit', 'does not exist'],
};
const KIND = { __proto__: null, aws: 'AWS Auto Scaling', file: 'File', sim: 'Simulation' };

function drawPanel(f) {
  const { view: { panel: p }, meta: m, roster: r } = f;
  keyed(p.issues, f.problems, (x) => x.kind, () => {
    const n = { icon: icon('warn'), title: h('b'), since: timeEl('sub'), detail: h('p', 'detail'), todo: h('p') };
    n.el = h('li', null, n.icon, h('div', null, h('div', 'issue-head', n.title, n.since), n.detail, n.todo));
    return n;
  }, (n, x) => {
    attr(n.el, 'data-level', LEVEL[x.level]);
    setIcon(n.icon, LEVEL[x.level]);
    put(n.title, x.title);
    setTime(n.since, x.since, x.since == null ? '' : `since ${clock(x.since)}, `);
    put(n.detail, cap(x.detail));
    n.detail.hidden = !x.detail;
    put(n.todo, x.todo);
    n.todo.hidden = !x.todo;
  });
  p.issues.el.hidden = !f.problems.length;

  lives.draw(p.lives, f.lives, m.agents, p.young || !f.told);
  f.told = f.changes !== null; // what the first answer tells is no news

  drawMembers(f, p);

  const [mark, text] = SOURCE[m.source] || ['wait', m.source || 'not known'];
  setIcon(p.sourceIcon, mark);
  put(p.sourceText, `${KIND[m.kind] || m.kind || 'Source'}: ${text}${m.failures ? `, ${plural(m.failures, 'failure')} in a row` : ''}`);
  put(p.sourceGroup, m.group);
  setTime(p.sourceTime, m.success, 'last answer ', m.attempt ? 'has never answered' : 'not asked yet');
  const showError = m.error && m.source !== 'ok' && !f.problems.some((x) => x.detail === m.error.message); // said above already
  p.sourceError.hidden = !showError;
  if (showError) put(p.sourceError, `${m.error.at ? `${clock(m.error.at)} ` : ''}${m.error.message}`);
  setIcon(p.guardIcon, m.holding ? 'warn' : 'ok');
  put(p.guardText, m.holding ? `holding${m.reads ? `, ${plural(m.reads, 'read')} so far` : ''}` : 'ok');
  put(p.guardWhy, m.holding ? m.reason : '');
  setTime(p.guardTime, m.holding ? m.holdSince : null, 'began ');
  put(p.revision, r ? str(r.revision) : 'none yet');
  setTime(p.published, r ? r.published : null, r && r.published != null ? `published ${clock(r.published)}, ` : '');
  setTime(p.confirmed, m.confirmed, '', 'never');
  put(p.port, str(m.port) || '–');
  put(p.agents, m.agents ? `${num(m.applied)} of ${num(m.agents)} on this revision` : 'none is known');
  put(p.behind, !m.agents ? 'Drains end at their deadline.' : m.applied < m.agents ? 'The others still use an older list.' : '');
  put(p.watchers, m.watchers == null ? '–' : num(m.watchers));

  drawChanges(f, p);
  p.young = false;
}
function drawMembers(f, p) {
  const r = f.roster, m = f.meta;
  const total = r ? r.members.length : 0;
  put(p.title, total ? plural(total, 'collector') : 'Collectors');
  p.copy.hidden = !total;
  p.table.hidden = p.zones.el.hidden = !total;

  let note = '';
  if (!r) {
    note = m.source === 'missing'
      ? `The source says there is no ${m.kind === 'aws' ? 'Auto Scaling group' : 'such fleet'} “${m.group}”. No list was ever published for it.`
      : 'Nothing is known about this fleet yet: its source has not answered. That does not mean it is empty.';
  } else if (!total) {
    note = 'This fleet is really empty: its source answered, and listed no collectors.';
  }
  const rest = f.match ? f.match.rest : [];
  let members = r ? r.members : [];
  if (rest.length) {
    members = members.filter((x) => hit(x, rest));
    if (total) note = `The filter shows ${num(members.length)} of them.`;
  }
  put(p.note, note);
  p.note.hidden = !note;
  cls(p.note, 'big', !total);

  const shown = p.all ? members : members.slice(0, ROWS);
  const filtered = rest.join(' ');
  const live = !p.young && p.filtered === filtered;
  p.filtered = filtered;
  if (p.revision_ !== (r && r.revision) || !live || p.shown !== shown.length) {
    p.revision_ = r && r.revision;
    p.shown = shown.length;
    keyed(p.rows, shown, (x) => x.id || x.address, (x) => {
      const n = { address: h('td', 'addr'), id: h('td', 'id'), zone: h('td', 'zone'), mark: h('span', 'st'), word: h('span') };
      n.state = h('td', 'state', n.mark, n.word);
      n.el = h('tr', null, n.address, n.id, n.zone, n.state);
      n.el.setAttribute('role', 'row');
      for (const c of n.el.children) c.setAttribute('role', 'cell');
      return n;
    }, (n, x, isNew) => {
      const sig = `${x.address} ${x.state} ${x.zone}`;
      if (n.sig === sig) return;
      if (live) flash(n.el);
      n.sig = sig;
      put(n.address, x.address);
      put(n.id, x.id);
      put(n.zone, x.zone || '–');
      n.mark.className = `st st-${RANK[x.state] === undefined ? 'other' : x.state}`;
      put(n.word, word(x.state));
      attr(n.el, 'data-state', x.state);
    });
    const zones = new Map();
    if (r) for (const x of r.members) {
      const z = zones.get(x.zone) || { zone: x.zone, n: 0, active: 0 };
      z.n++;
      if (x.state === 'active') z.active++;
      zones.set(x.zone, z);
    }
    keyed(p.zones, [...zones.values()].sort((a, b) => collator.compare(a.zone, b.zone)), (z) => z.zone, () => {
      const n = { name: h('span'), n: h('b'), fill: h('span', 'fill') };
      n.sub = h('span', 'sub');
      n.el = h('li', null, h('span', 'zline', n.name, n.n, n.sub), h('span', 'zbar', n.fill));
      return n;
    }, (n, z) => {
      put(n.name, z.zone || 'no zone');
      put(n.n, num(z.active));
      put(n.sub, z.active === z.n ? '' : `of ${num(z.n)}`);
      attr(n.el, 'title', `${z.active} of ${z.n} active`);
      n.fill.style.width = `${Math.round(100 * z.active / Math.max(1, ...[...zones.values()].map((q) => q.n)))}%`;
    });
  }
  const hiddenRows = members.length - shown.length;
  p.more.hidden = !hiddenRows;
  if (hiddenRows) put(p.more, `Show ${num(hiddenRows)} more`);
}
function drawChanges(f, p) {
  const list = arr(f.changes).map(obj);
  p.noChanges.hidden = !!list.length;
  keyed(p.changes, list, (c) => `${c.revision} ${c.at}`, (c) => {
    const n = { el: h('li'), time: h('time') };
    const lines = h('ul');
    const members = arr(c.members).map(obj);
    const line = (x) => {
      const from = x.from == null ? null : word(x.from), to = x.to == null ? null : word(x.to);
      const kind = from == null ? 'plus' : to == null ? 'minus' : 'turn';
      const sign = h('span', `sign ${kind}`, kind === 'plus' ? '+' : kind === 'minus' ? '−' : '→');
      sign.setAttribute('aria-label', kind === 'plus' ? 'added' : kind === 'minus' ? 'removed' : 'changed');
      sign.setAttribute('role', 'img');
      return h('li', null, sign, h('span', 'cline', h('span', 'cid', str(x.instance_id)), ' ', h('span', 'caddr', str(x.address)), ' ',
        h('span', 'cstate', kind === 'plus' ? to : kind === 'minus' ? `was ${from}` : from === to ? `${to}, new address` : `${from} → ${to}`)));
    };
    const few = members.length > LINES + 2 ? LINES : members.length;
    lines.append(...members.slice(0, few).map(line));
    const rest = members.slice(few);
    const more = rest.length ? button(`and ${num(rest.length)} more`, () => { lines.append(...rest.map(line)); more.remove(); }, 'link') : null;
    n.ms = parse(c.at);
    if (n.ms != null) { n.time.dateTime = new Date(n.ms).toISOString(); n.time.title = full(n.ms); }
    if (c.revision != null) n.el.title = `revision ${c.revision}`;
    n.el.append(n.time, h('div', null, lines, more, h('span', 'cause', str(c.cause))));
    return n;
  }, (n, c, isNew) => {
    put(n.time, n.ms == null ? '–' : clock(n.ms).replace(/ (?=\w+ )/, '\u00a0'));
    if (isNew && !p.young) flash(n.el);
  });
}

// ---- copying
async function copy(btn, text) {
  let done = false;
  try {
    if (navigator.clipboard && window.isSecureContext) { await navigator.clipboard.writeText(text); done = true; }
  } catch { /* not allowed: the old way */ }
  if (!done) {
    const area = $('clip');
    area.value = text;
    area.select();
    try { done = document.execCommand('copy'); } catch { /* not even that */ }
    btn.focus({ preventScroll: true });
  }
  const label = btn._label || (btn._label = btn.textContent);
  btn.textContent = done ? 'Copied' : 'Cannot copy here';
  clearTimeout(btn._back);
  btn._back = setTimeout(() => { btn.textContent = label; }, 1600);
}

// ---- fetching
let polling = false, again = false, pollTimer = 0, pollOk = null, pollWhy = '', heard = null, locked = '';

async function get(path) {
  const ctl = new AbortController();
  const timer = setTimeout(() => ctl.abort(), TIMEOUT);
  const sent = Date.now();
  try {
    const res = await fetch(base + path, { headers: { Accept: 'application/json' }, cache: 'no-store', signal: ctl.signal });
    learnClock(res, sent);
    if (res.status === 401 || res.status === 403) { lock(res.status); return { error: 'locked' }; }
    if (res.status === 404) return { gone: true, error: 'answered 404' };
    if (!res.ok) return { error: `answered ${res.status}` };
    return { body: await res.json() };
  } catch (e) {
    return { error: ctl.signal.aborted ? `did not answer within ${TIMEOUT / 1000} s` : e instanceof SyntaxError ? 'sent something that is not JSON' : 'does not answer' };
  } finally {
    clearTimeout(timer);
  }
}
async function poll() {
  if (locked) return;
  if (polling) { again = true; return; }
  polling = true;
  again = false;
  clearTimeout(pollTimer);
  const at = ++seq;
  const { body, error } = await get('v1/fleets');
  polling = false;
  const list = body && body.fleets;
  pollOk = Array.isArray(list);
  pollWhy = pollOk ? '' : error || 'sent an unexpected answer';
  if (pollOk) {
    heard = now();
    loaded = true;
    const names = new Set();
    for (const raw of list) if (raw && raw.fleet) { names.add(str(raw.fleet)); takeState(raw, at); }
    for (const [name, f] of fleets) if (!names.has(name) && f.rosterSeq <= at) {
      fleets.delete(name);
      if (f.view) f.view.el.remove();
      orderDirty = true;
    }
  }
  redrawAll();
  drawLink();
  if (!locked) pollTimer = setTimeout(poll, again ? REFETCH : (document.hidden ? POLL_HIDDEN : POLL) * (0.9 + Math.random() * 0.2));
}
// A push is followed by the fleet's state: at most one round a second, one request when many changed.
const wanted = new Set();
let wantTimer = 0, wantLast = -Infinity;
function wantState(name) {
  wanted.add(name);
  if (!wantTimer) wantTimer = setTimeout(fetchWanted, Math.max(50, wantLast + REFETCH - now()));
}
async function fetchWanted() {
  const names = [...wanted];
  wanted.clear();
  wantLast = now();
  if (names.length > FEW) await poll();
  else await Promise.all(names.map(async (name) => {
    const at = ++seq;
    const { body } = await get(`v1/fleets/${encodeURIComponent(name)}`);
    if (body && body.fleet) { heard = now(); takeState(body, at); }
  }));
  wantTimer = 0;
  if (wanted.size && !locked) wantState([...wanted][0]);
}

// ---- watching
// fetch instead of EventSource: it shows the status, lets silence be noticed, and jitters reconnects.
const watch = { state: 'off', since: null, ctl: null, timer: 0, silence: 0, tries: 0, next: 0 };

async function openWatch() {
  if (watch.state === 'live' || watch.state === 'opening' || locked) return;
  clearTimeout(watch.timer);
  watch.state = 'opening';
  const ctl = watch.ctl = new AbortController();
  const alive = () => { clearTimeout(watch.silence); watch.silence = setTimeout(() => ctl.abort(), SILENCE); };
  let bye = false, wait = 0;
  alive();
  drawLink();
  try {
    const sent = Date.now();
    const res = await fetch(`${base}v1/watch`, { headers: { Accept: 'text/event-stream' }, cache: 'no-store', signal: ctl.signal });
    if (res.status === 401 || res.status === 403) { lock(res.status); return; }
    if (!res.ok || !res.body) {
      wait = Number(res.headers.get('Retry-After')) * 1000 || 0;
      throw new Error(`status ${res.status}`);
    }
    learnClock(res, sent);
    watch.state = 'live';
    if (watch.since != null) poll();
    watch.since = null;
    heard = now();
    drawLink();
    const reader = res.body.getReader(), decoder = new TextDecoder();
    let buf = '', type = '', data = [];
    while (!bye) {
      const { value, done } = await reader.read();
      if (done) break;
      alive();
      heard = now();
      buf += decoder.decode(value, { stream: true });
      let start = 0, end;
      while ((end = buf.indexOf('\n', start)) >= 0) {
        const line = buf.slice(start, buf[end - 1] === '\r' ? end - 1 : end);
        start = end + 1;
        if (line === '') {
          if (type === 'goaway') bye = true;
          else if (type === 'roster' && data.length) { watch.tries = 0; pushed(data.join('\n')); }
          type = ''; data = [];
        } else if (line[0] !== ':') {
          const cut = line.indexOf(':'), field = cut < 0 ? line : line.slice(0, cut);
          const value = cut < 0 ? '' : line.slice(line[cut + 1] === ' ' ? cut + 2 : cut + 1);
          if (field === 'event') type = value;
          else if (field === 'data') data.push(value);
        }
      }
      buf = buf.slice(start);
      if (buf.length > EVENT_MAX) throw new Error('event too large');
    }
  } catch { /* shown as a lost connection */ }
  clearTimeout(watch.silence);
  if (watch.ctl !== ctl) return; // given up by us, someone else took over
  ctl.abort();
  if (watch.since == null) watch.since = Date.now();
  const back = bye && !watch.tries ? 300 + Math.random() * 1200 : Math.min(BACKOFF_MAX, 800 * 2 ** watch.tries) * (0.5 + Math.random() * 0.5);
  watch.tries = Math.min(watch.tries + 1, 8);
  watch.state = 'waiting';
  const delay = Math.max(back, Math.min(wait, 30_000));
  watch.next = now() + delay;
  watch.timer = setTimeout(openWatch, delay);
  poll(); // does the server answer at all?
  drawLink();
}
function closeWatch() {
  clearTimeout(watch.timer);
  clearTimeout(watch.silence);
  const ctl = watch.ctl;
  watch.ctl = null;
  watch.state = 'off';
  if (ctl) ctl.abort();
}
function pushed(text) {
  let raw;
  try { raw = JSON.parse(text); } catch { return; }
  if (!raw || !raw.fleet || !Array.isArray(raw.members)) return;
  const f = fleetNamed(str(raw.fleet));
  if (takeRoster(f, raw, ++seq)) { dirty(f); if (loaded) wantState(f.name); }
}

// ---- the connection, shown
const offline = () => watch.state !== 'live' && pollOk === false;

function lock(status) {
  locked = status === 403
    ? 'The directory does not allow this: the token may not read. Reload the page with the read token.'
    : 'The directory wants a token. Reload the page; any user name will do, the password is the read token.';
  closeWatch();
  clearTimeout(pollTimer);
  drawLink();
}
function drawLink() {
  const pill = $('link'), text = $('link-text');
  const lost = watch.since == null ? 0 : Date.now() - watch.since;
  let state, label, title = '', banner = '';
  if (locked) {
    state = 'down'; label = 'Locked'; banner = locked;
  } else if (watch.state === 'live') {
    state = 'live'; label = 'Live'; title = 'Every change shows up at once';
    if (pollOk === false) banner = `Rosters are live, but the states of source and guard are not: v1/fleets ${pollWhy}.`;
  } else if (pollOk === null || (pollOk && watch.state === 'opening' && watch.since == null)) {
    state = 'wait'; label = 'Connecting';
  } else if (pollOk) {
    state = 'wait';
    label = watch.state === 'off' ? 'Paused' : lost > 3000 ? 'Polling' : 'Reconnecting';
    title = 'The live connection is down; the page asks every 10 s';
    if (lost > 30_000) banner = `No live connection for ${span(lost)}: this page asks every 10 s instead. A proxy in between may hold the stream back.`;
  } else {
    state = 'down';
    label = 'Reconnecting';
    title = `Lost ${span(lost)} ago`;
    const next = Math.max(0, Math.ceil((watch.next - now()) / 1000));
    const then = heard == null ? '' : ` This is what was known at ${clock(serverNow() - (now() - heard))}, ${span(now() - heard)} ago.`;
    banner = `The directory ${pollWhy || 'does not answer'}.${then} Proxies keep sending with the roster they have. ${watch.state === 'waiting' && next ? `Next try in ${next} s.` : 'Trying…'}`;
  }
  attr(pill, 'data-state', state);
  attr(pill, 'title', title || null);
  put(text, label);
  const away = !locked ? offline() && loaded : loaded;
  cls(document.body, 'away', away);
  if (!loaded && pollOk === false) put($('verdict'), 'No answer from the directory');
  if (!loaded && locked) put($('verdict'), 'Locked');
  const box = $('banner');
  box.hidden = !banner;
  attr(box, 'data-level', state === 'down' ? 'warn' : 'wait');
  // read aloud when it appears, not at each second
  if (banner) { if (!box._on) box.setAttribute('role', 'alert'); else box.removeAttribute('role'); }
  box._on = !!banner;
  put($('banner-text'), banner);
  drawTitle();
}
function retry() {
  locked = '';
  watch.tries = 0;
  if (watch.state === 'waiting' || watch.state === 'off') { watch.state = 'off'; openWatch(); }
  poll();
  drawLink();
}

// ---- hands and keys
function refilter() {
  query = $('filter').value.toLowerCase().split(/\s+/).filter(Boolean);
  redrawAll();
}
function followHash() {
  let name;
  try { name = decodeURIComponent(location.hash.slice(1)); } catch { return; }
  if (!name) return;
  const f = fleets.get(name);
  if (!f || !f.view) return;
  if (!f.match) { $('filter').value = ''; refilter(); flush(); }
  setOpen(f, true, false);
  f.view.el.scrollIntoView({ block: 'start' });
  f.view.head.focus({ preventScroll: true });
}
function showZone() {
  put($('zone'), utc ? 'UTC' : 'Local');
  $('zone').setAttribute('aria-pressed', String(utc));
}
$('filter').addEventListener('input', refilter);
$('retry').addEventListener('click', retry);
$('skip').addEventListener('click', (e) => { e.preventDefault(); $('groups').focus(); });
$('zone').addEventListener('click', () => {
  utc = !utc;
  try { localStorage.setItem('pikepole-times', utc ? 'utc' : 'local'); } catch { /* then it is not remembered */ }
  showZone();
  redrawAll();
});
addEventListener('hashchange', followHash);
addEventListener('online', retry);
document.addEventListener('keydown', (e) => {
  if (e.ctrlKey || e.metaKey || e.altKey) return;
  const inField = e.target.closest && e.target.closest('input, textarea');
  if (e.key === '/' && !inField && !$('tools').hidden) { e.preventDefault(); $('filter').focus(); $('filter').select(); }
  if (e.key === 'Escape' && e.target === $('filter')) { if ($('filter').value) { $('filter').value = ''; refilter(); } else $('filter').blur(); }
});
let hiddenTimer = 0;
document.addEventListener('visibilitychange', () => {
  clearTimeout(hiddenTimer);
  if (document.hidden) { hiddenTimer = setTimeout(closeWatch, HIDDEN_GRACE); return; }
  tick();
  if (locked) return;
  if (watch.state === 'off') watch.since = null; // it was we who left
  retry();
});
function tick() {
  if (document.hidden) return;
  for (const el of document.querySelectorAll('.rel')) if (el._ms != null) put(el, el._before + ago(el._ms, el._short));
  if (watch.state !== 'live' || pollOk === false) drawLink();
}

showZone();
setInterval(tick, 1000);
poll();
openWatch();
})();
