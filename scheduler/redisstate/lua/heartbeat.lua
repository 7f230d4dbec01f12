-- A node's sign of life. It keeps its asks in line alive, does what time has
-- brought, and tells the node what it may have missed.
--
-- ARGV: 2 node, 3 the heartbeat before, as this script gave it, 4 the version of
-- account states that the node knows, 5... leases that it awaits in line.
--
-- Answers: 'unknown node' | 'heartbeat' this one, whether the beat before is missing,
-- nodes alive, version, {place, account state...}, {answer or ''...} for each lease;
-- '' = in line still, 'gone' = not in line.
local node = ARGV[2]
local before = call('ZSCORE', NODES, node)
if not before then return {'unknown node'} end
call('ZADD', NODES, whole(now), node)
for _, dead in ipairs(call('ZRANGEBYSCORE', NODES, '-inf', whole(now - 60000))) do
  call('ZREM', NODES, dead)
  call('HDEL', SEQ, 'n:' .. dead)
end

local waiting = {}
for i = 5, #ARGV do
  local text = call('HGET', ASKS, ARGV[i])
  if text then
    waiting[#waiting + 1] = ARGV[i]
    call('ZADD', EXPIRY, whole(now + cjson.decode(text).ttl), ARGV[i])
  else -- served: it learns so from this answer at the latest, and holds the slot from here on
    text = call('HGET', ANSWERS, ARGV[i])
    local ttl = text and cjson.decode(text).ttl
    if ttl and number(call('ZSCORE', EXPIRY, ARGV[i])) > now then call('ZADD', EXPIRY, whole(now + ttl), ARGV[i]) end
  end
end
sweep(200)
local looked = {}
for _, lease in ipairs(waiting) do -- those of a node that was silent may be served only now
  local text = call('HGET', ASKS, lease)
  local solo = text and cjson.decode(text).solo
  if solo and not looked[solo] then
    looked[solo] = true
    serve(solo)
  end
end

local answers = {}
for i = 5, #ARGV do
  answers[#answers + 1] = call('HGET', ANSWERS, ARGV[i]) or call('HEXISTS', ASKS, ARGV[i]) == 1 and '' or 'gone'
end
local version, changes = number(call('HGET', SEQ, 'version')), {}
local from = number(ARGV[4])
if from > version then from = 0 end
if from < version then
  local changed = call('ZRANGEBYSCORE', P .. 'changed', '(' .. whole(from), '+inf', 'WITHSCORES', 'LIMIT', 0, 500)
  for i = 1, #changed, 2 do
    changes[i], changes[i + 1] = changed[i], call('HGET', P .. 'standings', changed[i])
    version = tonumber(changed[i + 1])
  end
end
return {'heartbeat', whole(now), before == ARGV[3] and 0 or 1,
  call('ZCOUNT', NODES, whole(now - SILENCE), '+inf'), version, changes, answers}
