//! The Lua that runs inside Redis, where a look and a write are one step.
//!
//! Plain Lua 5.1 and commands that Redis 7 and Valkey 8 share. Versions are compared and kept as
//! decimal text: Lua's numbers are floating point.

use std::sync::LazyLock;

use redis::Script;

/// What `look` finds at a key: `none`, or `record` with version and body, or `foreign` with a reason.
pub(super) type Entry = Vec<Vec<u8>>;

/// A version has at most 18 digits, so that it fits a `u64`.
const FUNCTION_LOOK: &str = r"
local function look(key, limit)
  local kind = redis.call('TYPE', key).ok
  if kind == 'none' then return {'none'} end
  if kind ~= 'hash' then return {'foreign', 'foreign: a ' .. kind .. ' instead of a hash'} end
  if redis.call('HSTRLEN', key, 'v') > 18 or redis.call('HSTRLEN', key, 'body') > limit then
    return {'foreign', 'foreign: larger than any record'}
  end
  local at = redis.call('HMGET', key, 'v', 'body')
  if not (at[1] and at[2]) then return {'foreign', 'foreign: a hash without v and body'} end
  if not string.find(at[1], '^[1-9]%d*$') then return {'foreign', 'foreign: its version is no number'} end
  return {'record', at[1], at[2]}
end
";

fn script(body: &str) -> Script {
    Script::new(&format!("{FUNCTION_LOOK}{body}"))
}

/// KEYS: any number of records. ARGV: the largest body. Answers an [`Entry`] each.
pub(super) static LOOK: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
local found = {}
for i, key in ipairs(KEYS) do found[i] = look(key, tonumber(ARGV[1])) end
return found
",
    )
});

/// KEYS: a record. ARGV: the largest body, the version it must have (empty: there must be none), the
/// next one, the body, the channel, the notice. Answers {word, detail}.
///
/// The first version is the time in milliseconds, so that after a Redis lost its data nobody who
/// remembers a version of before can mistake a new record for the one it has seen.
pub(super) static SAVE: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
local at = look(KEYS[1], tonumber(ARGV[1]))
if at[1] == 'foreign' then return at end
if (at[2] or '') ~= ARGV[2] then return {'conflict', ''} end
local version = ARGV[3]
if version == '' then
  local now = redis.call('TIME')
  version = now[1] .. string.format('%03d', math.floor(tonumber(now[2]) / 1000))
end
redis.call('HSET', KEYS[1], 'v', version, 'body', ARGV[4])
redis.call('PERSIST', KEYS[1])
redis.call('PUBLISH', ARGV[5], ARGV[6])
return {'saved', version}
",
    )
});

/// KEYS: a record, the place for what is none. ARGV: the largest body, the version and the body that
/// were seen. Answers 1 if it moved it, 0 if something else stands there by now.
pub(super) static PUT_ASIDE: LazyLock<Script> = LazyLock::new(|| {
    script(
        r"
local at = look(KEYS[1], tonumber(ARGV[1]))
if at[1] == 'none' then return 0 end
if at[1] == 'record' and not (at[2] == ARGV[2] and at[3] == ARGV[3]) then return 0 end
redis.call('RENAME', KEYS[1], KEYS[2])
return 1
",
    )
});

/// KEYS: a record, the key of a group. ARGV: the version the list was made of, the list. Answers 1 if
/// the list was written.
pub(super) static MIRROR: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('TYPE', KEYS[1]).ok ~= 'hash' or redis.call('HGET', KEYS[1], 'v') ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[2], ARGV[2])
return 1
",
    )
});

/// KEYS: a lease. ARGV: our token, the time to live in ms. Answers 1 if the lease is ours.
///
/// A lease always is a string that ends by itself; anything else was put there by someone else and
/// would keep all replicas out for ever.
pub(super) static LEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
local kind = redis.call('TYPE', KEYS[1]).ok
if kind ~= 'none' and (kind ~= 'string' or redis.call('PTTL', KEYS[1]) < 0) then
  redis.call('RENAME', KEYS[1], KEYS[1] .. ':quarantined')
end
if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
  return 1
end
return 0
",
    )
});

/// KEYS: a lease. ARGV: our token. Ends the lease if it is ours.
pub(super) static RELEASE: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
if redis.call('TYPE', KEYS[1]).ok == 'string' and redis.call('GET', KEYS[1]) == ARGV[1] then
  redis.call('DEL', KEYS[1])
end
return 1
",
    )
});
