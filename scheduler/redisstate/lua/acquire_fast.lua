-- Takes a slot for an ask, or a place in line: State.Acquire.
--
-- ARGV: 2 node, 3 lease, 4 ttl, 5 set, 6 the set's definition or '', 7 pool,
-- 8 user, 9 model, 10 fast, 11 session, 12 its ttl, 13 unstick, 14 ignore load,
-- 15 sticky max waiting, 16 max waiting, 17 where the node saw the session last
-- or '', 18 endpoint, 19 whether it is the gateway's own question, 20 the session whose
-- marks count or '', 21... excluded places. A set '' has one place, defined in 6, not kept.
--
-- Answers: 'granted' place moved marks own last trial | 'queued' place sticky | 'full' | 'out'
-- until | 'used' place: the lease is in use | 'expired': it was, and must be
-- released first | 'unknown node': the node must join first | 'set': the definition
-- is needed.
local node, lease, ttl, set = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local session = ARGV[11] ~= '' and ARGV[11]

local seq = call('HMGET', SEQ, 'n:' .. node, 'settling')
if not seq[1] then return {'unknown node'} end
local halted = number(seq[2]) > now

local key, defined = P .. 'set:' .. set, nil
local function definition()
  defined = defined or cjson.decode(ARGV[6] ~= '' and ARGV[6] or call('HGET', key, '*'))
  return defined
end
if set ~= '' and ARGV[6] ~= '' then
  call('DEL', key)
  call('HSET', key, '*', ARGV[6])
  for i, name in ipairs(definition().names) do call('HSET', key, name, defined.limits[i]) end
  call('PEXPIRE', key, 86400000)
end

-- bound is the place that the session is bound to, known what is known of it.
local bound, known_session = '', false
if session then
  known_session = call('GET', P .. 'session:' .. session)
  bound = ARGV[17]
  if known_session then
    local expires, _, place = string.match(known_session, '^(%d+) (%d+) (.*)$')
    if tonumber(expires) > now then bound = place end
  end
end

-- limit_of gives the limit of a candidate; nothing for what is none.
local function limit_of(place)
  if set ~= '' then return tonumber(call('HGET', key, place) or nil) end
  local d = definition()
  for i, name in ipairs(d.names) do
    if name == place then return d.limits[i] end
  end
end

-- granted gives the lease its slot, which is counted already.
local function granted(place, how, own, last, trial)
  take(lease, place, how)
  local moved, marks = false, 0
  if session then moved, marks = bind(session, known_session, place, tonumber(ARGV[12])) end
  if session and ARGV[20] ~= '' then marks = remembered(ARGV[20], tonumber(ARGV[12])) end
  return {'granted', place, moved and 1 or 0, marks, own and 1 or 0, last and 1 or 0, trial and 1 or 0}
end

-- A lease expires from here on, and is known to be none in use.
if call('ZADD', EXPIRY, 'NX', whole(now + ttl), lease) == 0 then
  if tonumber(call('ZSCORE', EXPIRY, lease)) <= now then return {'expired'} end
  local held = call('HGET', HELD, lease)
  return {'used', held and string.sub(held, 2) or ''}
end

-- The usual: the session's place, or the only one there is, has a free slot, and
-- nothing bars it.
if not halted and #ARGV < 21 then
  local place = ARGV[13] ~= '1' and bound or ''
  local own = place ~= ''
  if place == '' and set == '' then place = definition().names[1] end
  local limit = place ~= '' and limit_of(place)
  if limit and call('HEXISTS', BARS, place) == 0 then
    if call('HINCRBY', INUSE, place, 1) <= limit or limit <= 0 then return granted(place, 'd', own) end
    call('HINCRBY', INUSE, place, -1)
  end
end
