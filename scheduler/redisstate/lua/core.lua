-- What scripts share when the usual was not enough: what account states bar, the
-- lines, and how slots that become free go to them.
local WAITING, ASKS, ANSWERS = P .. 'waiting', P .. 'asks', P .. 'answers'
local TURNS, NODES, MOST = P .. 'turns', P .. 'nodes', P .. 'most'
-- A node that was silent for longer than this is not served in line.
local SILENCE = 5000
local TRIAL_LASTS = 10000 -- scheduler.TrialLasts

-- hmget reads the fields of a hash, however many: a call takes some thousands.
local function hmget(key, fields)
  if #fields <= 1000 then return call('HMGET', key, unpack(fields)) end
  local all = {}
  for from = 1, #fields, 1000 do
    local part = call('HMGET', key, unpack(fields, from, math.min(from + 999, #fields)))
    for i = 1, #part do all[from + i - 1] = part[i] end
  end
  return all
end

local known = {}
local function bar(place)
  if known[place] == nil then
    local text = call('HGET', BARS, place)
    known[place] = text and cjson.decode(text) or false
  end
  return known[place]
end

-- judge returns what a bar makes of an ask: the use; until when it is barred, as
-- milliseconds and as the text to answer; until when it comes last, as milliseconds,
-- 0 = it does not; and whether for its own sessions too.
local function judge(b, ask)
  if b.out then return BLOCKED, b.at, b.text, 0, false end
  local use, at, text = AVAILABLE, nil, nil
  for _, l in ipairs(b.limits) do
    if (not l.fast or ask.fast) and (not l.family or string.find(ask.model, l.family, 1, true)) then
      if now < l.at then
        use = BLOCKED
        if not at or l.at > at then at, text = l.at, l.text end
      elseif use == AVAILABLE then
        use = TRIAL
      end
    end
  end
  local last, everyone = 0, false
  for _, d in ipairs(b.last) do
    if now < d.at and (not d.model or d.model == ask.model and (d.endpoint or '') == (ask.endpoint or '')
      and (d.any or (d.fast or false) == ask.fast)) then
      if d.at > last then last = d.at end
      everyone = everyone or not d.model
    end
  end
  return use, at, text, last, everyone
end

local function usable(place, ask)
  if ask.exclude then
    for _, name in ipairs(ask.exclude) do
      if name == place then return BLOCKED, nil, nil, 0, false end
    end
  end
  local b = not ask.question and bar(place)
  if not b then return AVAILABLE, nil, nil, 0, false end
  return judge(b, ask)
end

-- try puts a lease on trial, which keeps others away for a while.
local function try(place, lease)
  call('HSET', PROBES, place, whole(now + TRIAL_LASTS) .. ' ' .. lease)
  call('ZADD', TURNS, whole(now + TRIAL_LASTS), '!' .. place)
end

local function on_trial(place)
  local text = call('HGET', PROBES, place)
  return text and tonumber(string.match(text, '^%d+')) > now
end

-- grant gives an ask in line a slot, and binds its session.
local function grant(lease, ask, place, use, last)
  call('HINCRBY', INUSE, place, 1)
  take(lease, place, use == TRIAL and 'q' or 'l')
  if use == TRIAL then try(place, lease) end
  local answer = {
    lease = lease, place = place, ttl = ask.ttl, own = ask.sticky, last = last > 0, trial = use == TRIAL,
  }
  if ask.session then
    answer.moved, answer.marks = bind(ask.session, call('GET', P .. 'session:' .. ask.session), place, ask.bind)
    if ask.memory then answer.marks = remembered(ask.memory, ask.bind) end
  end
  return answer
end

-- leave takes an ask out of line, because it is served or not.
local function leave(lease, ask, served)
  call('HINCRBY', WAITING, ask.counted, -1)
  call('HINCRBY', SEQ, 'inline', -1)
  call('HDEL', ASKS, lease)
  local line = P .. 'line:' .. ask.line
  call('ZREM', line, ask.member)
  if call('EXISTS', line) == 0 then
    if not ask.solo then
      call('SREM', P .. 'active', ask.set)
    else
      call('SREM', P .. 'at:' .. ask.solo, ask.pool)
      if call('EXISTS', P .. 'at:' .. ask.solo) == 0 then
        call('SREM', P .. 'solo', ask.solo)
        call('HDEL', MOST, ask.solo)
      end
    end
  end
  local pool, last, waiting = P .. 'pool:' .. ask.pool, 'l:' .. ask.user, 'w:' .. ask.user
  -- Asks that were never served are not held against the user.
  if not served and ask.rank == number(call('HGET', pool, last)) then call('HINCRBY', pool, last, -1) end
  if call('HINCRBY', pool, waiting, -1) == 0 then
    call('HDEL', pool, waiting)
    if number(call('HGET', pool, last)) < number(call('HGET', pool, 's')) then call('HDEL', pool, last) end
  end
  if call('HINCRBY', pool, 'w', -1) == 0 then call('DEL', pool) end
end

-- tell leaves an answer for the node whose ask was in line, and wakes it, where the
-- user of Redis has a right to. Its next beat brings the answer in any case.
local function tell(lease, ask, answer)
  local text = cjson.encode(answer)
  call('HSET', ANSWERS, lease, text)
  redis.pcall('PUBLISH', P .. 'node:' .. ask.node, text)
end

-- first finds the first ask of a line that a place can take.
local function first(line, place, limit, inuse, probe)
  for from = 0, 100000, 20 do
    local members = call('ZRANGE', P .. 'line:' .. line, from, from + 19)
    for _, member in ipairs(members) do
      local lease = string.sub(member, 17)
      local text = call('HGET', ASKS, lease)
      if text then
        local ask = cjson.decode(text)
        local slots = limit or ask.limit
        local heard = number(call('ZSCORE', EXPIRY, lease)) - ask.ttl
        if (slots <= 0 or inuse < slots) and heard + SILENCE >= now then
          local use, _, _, last = usable(place, ask)
          if use == AVAILABLE or use == TRIAL and not probe then return lease, ask, use, last end
        end
      end
    end
    if #members < 20 then return end
  end
end

-- next finds the first ask in line that a place can take, by Turn.
local function next_in_line(place)
  local seq = call('HMGET', SEQ, 'inline', 'settling')
  if number(seq[1]) <= 0 or number(seq[2]) > now then return end
  local pools, sets = call('SMEMBERS', P .. 'at:' .. place), call('SMEMBERS', P .. 'active')
  local probe = on_trial(place)
  local b = bar(place)
  -- What bars every request needs no look at any, but for the gateway's own
  -- questions, which wait in a pool of the place's own.
  if b and call('SISMEMBER', P .. 'at:' .. place, place) == 0 then
    local any = judge(b, {model = '', fast = false})
    if any == BLOCKED or any == TRIAL and probe then return end
  end
  local inuse = number(call('HGET', INUSE, place))
  local best, best_ask, best_use, best_last, best_ahead
  local function consider(line, limit)
    local lease, ask, use, last = first(line, place, limit, inuse, probe)
    if not lease then return end
    local ahead = ask.rank - number(call('HGET', P .. 'pool:' .. ask.pool, 's'))
    if not best or ahead < best_ahead or ahead == best_ahead and ask.arrival < best_ask.arrival then
      best, best_ask, best_use, best_last, best_ahead = lease, ask, use, last, ahead
    end
  end
  local most = number(call('HGET', MOST, place))
  if most <= 0 or inuse < most then
    for _, pool in ipairs(pools) do consider('p:' .. place .. '|' .. pool, nil) end
  end
  for _, set in ipairs(sets) do
    local limit = call('HGET', P .. 'set:' .. set, place)
    if limit and (tonumber(limit) <= 0 or inuse < tonumber(limit)) then consider('s:' .. set, tonumber(limit)) end
  end
  return best, best_ask, best_use, best_last
end

-- serve hands a place's free slots to the asks in line.
local function serve(place)
  while true do
    local lease, ask, use, last = next_in_line(place)
    if not lease then return end
    local pool = P .. 'pool:' .. ask.pool
    if ask.rank > number(call('HGET', pool, 's')) then call('HSET', pool, 's', ask.rank) end
    leave(lease, ask, true)
    -- Its expiry stays: the slot lives as long as its holder was heard of, plus
    -- the TTL.
    tell(lease, ask, grant(lease, ask, place, use, last))
  end
end

-- drop ends a lease; its slot goes to the line.
local function drop(lease)
  call('ZREM', EXPIRY, lease)
  local held = call('HGET', HELD, lease)
  if held then
    local how, place = string.sub(held, 1, 1), string.sub(held, 2)
    call('HDEL', HELD, lease)
    call('HINCRBY', INUSE, place, -1)
    if how ~= 'd' then
      call('HDEL', ANSWERS, lease)
      local probe = call('HGET', PROBES, place)
      if probe and string.match(probe, ' (.*)$') == lease then call('HDEL', PROBES, place) end
    end
    return serve(place)
  end
  local text = call('HGET', ASKS, lease)
  if text then
    leave(lease, cjson.decode(text), false)
  else
    call('HDEL', ANSWERS, lease)
  end
end

-- next_turn sets when the place's state changes by itself. A bar of which
-- nothing is left goes, so that the usual is enough again.
local function next_turn(place)
  local at, b = nil, bar(place)
  if b then
    local left = b.out or #b.limits > 0
    for _, list in ipairs({b.limits, b.last}) do
      for _, l in ipairs(list) do
        if now < l.at then
          left = true
          if not at or l.at < at then at = l.at end
        end
      end
    end
    if not left then
      call('HDEL', BARS, place)
      known[place] = false
    end
  end
  if at then call('ZADD', TURNS, whole(at), place) else call('ZREM', TURNS, place) end
end

local function serve_all()
  for _, place in ipairs(call('SMEMBERS', P .. 'solo')) do serve(place) end
  for _, set in ipairs(call('SMEMBERS', P .. 'active')) do
    local text = call('HGET', P .. 'set:' .. set, '*')
    if text then
      for _, place in ipairs(cjson.decode(text).names) do serve(place) end
    end
  end
end

-- sweep does what time has brought, n things of a kind at most.
local function sweep(n)
  for _, lease in ipairs(call('ZRANGEBYSCORE', EXPIRY, '-inf', whole(now), 'LIMIT', 0, n)) do drop(lease) end
  for _, place in ipairs(call('ZRANGEBYSCORE', TURNS, '-inf', whole(now), 'LIMIT', 0, n)) do
    if place == '*' then
      call('ZREM', TURNS, place)
      serve_all()
    elseif string.sub(place, 1, 1) == '!' then -- a trial keeps others away no longer
      call('ZREM', TURNS, place)
      serve(string.sub(place, 2))
    else
      next_turn(place)
      serve(place)
    end
  end
end

-- hold counts a slot that a node says it holds, unless it is known.
local function hold(lease, place)
  local text = call('HGET', ASKS, lease)
  if text then leave(lease, cjson.decode(text), false) end
  call('HSET', HELD, lease, 'l' .. place)
  call('HINCRBY', INUSE, place, 1)
end
