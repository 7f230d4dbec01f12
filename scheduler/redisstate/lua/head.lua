-- What all scripts begin with: the time, the keys, and how a lease gets a slot.
-- Scripts on every request's way do what is usual right after it, and define the
-- rest only where that was not enough: defining functions is a good part of what
-- a script costs.
-- The rules are those of the package scheduler (Standing.Judge, Better,
-- Turn, NextRank); the conformance suite holds both to the same answers.
--
-- KEYS[1] is the prefix of all keys, which lie in one slot of a cluster. Times
-- are milliseconds by the server's clock; ARGV[1] is added to it (0 but in
-- tests). Under the prefix:
--
--   expiry   zset  lease -> when it expires, slot or place in line
--   held     hash  lease -> how it came to its slot, and the place: 'd' directly,
--            'l' in line, 'p' and 'q' the same on trial
--   asks     hash  lease -> the ask that is in line, as JSON
--   answers  hash  lease -> the answer to an ask that was in line, as JSON
--   inuse, waiting, last  hash  place -> slots in use, asks in line, the stamp of the last grant
--   probes   hash  place -> until when a trial keeps others away, and its lease
--   bars     hash  place -> what its account state bars or puts last, as JSON; none for
--            a clear one
--   turns    zset  place -> when its account state changes by itself; '!' and place: when
--            a trial keeps others away no longer; '*': all places
--   standings, changed    hash, zset  place -> account state as JSON, its version
--   line:*   zset  arrival and lease -> rank; in line for a place ('p:') or a set ('s:')
--   at:*     set   pools with asks that wait for a place alone; solo: such places
--   most     hash  place -> the most slots that an ask in line for it alone grants it, 0 = any number
--   active   set   sets with asks in line
--   pool:*   hash  s: highest rank served, w: asks in line, l:<user>, w:<user>
--   set:*    hash  a set of candidates; '*': all in order, as JSON, else place -> limit
--   session:*  string  expiry, marks and place of a session
--   nodes    zset  node -> its last beat
--   seq      hash  counters: grant, arrival, version; inline: asks in line;
--            settling: until when no slot is given; n:<node>: a node that is known

local call = redis.call
local P = KEYS[1]
local INUSE, LAST, EXPIRY, HELD, SEQ = P .. 'inuse', P .. 'last', P .. 'expiry', P .. 'held', P .. 'seq'
local BARS, PROBES = P .. 'bars', P .. 'probes'
local BLOCKED, TRIAL, AVAILABLE = 0, 1, 2

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]

local function whole(n) return string.format('%.0f', n) end
local function number(text) return tonumber(text or 0) or 0 end

-- bind binds a session to a place; text is what is known of the session.
local function bind(session, text, place, ttl)
  local moved, marks = false, 0
  if text then
    local expires, m, at = string.match(text, '^(%d+) (%d+) (.*)$')
    if tonumber(expires) > now then
      moved, marks = at ~= '' and at ~= place, tonumber(m)
    end
  end
  call('SET', P .. 'session:' .. session, whole(now + ttl) .. ' ' .. marks .. ' ' .. place, 'PX', whole(ttl))
  return moved, marks
end

-- remembered gives the marks of a session, which live on for ttl.
local function remembered(session, ttl)
  local text = call('GET', P .. 'session:' .. session)
  local expires, marks, place = string.match(text or '', '^(%d+) (%d+) (.*)$')
  if not expires or tonumber(expires) <= now then return 0 end
  call('SET', P .. 'session:' .. session, whole(now + ttl) .. ' ' .. marks .. ' ' .. place, 'PX', whole(ttl))
  return tonumber(marks)
end

-- take gives a lease a slot that is counted already. The stamp of the grant is
-- the time, and tells grants of one millisecond apart.
local function take(lease, place, how)
  local stamp = now * 1024 + call('HINCRBY', SEQ, 'grant', 1) % 1024
  call('HSET', LAST, place, whole(stamp))
  call('HSET', HELD, lease, how .. place)
end
