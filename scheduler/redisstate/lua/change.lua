-- Replaces a place's state if it is what the node thinks it is: State.Change.
--
-- ARGV: 2 place, 3 the account state as known ('' = none), 4 the new one, 5 what it
-- bars as JSON ('' = nothing), 6 whether a trial is over. Answers: 1 version, or
-- 0 and the account state as it is.
local place = ARGV[2]
local state = call('HGET', P .. 'standings', place) or ''
if state ~= ARGV[3] then return {0, state} end
if state == ARGV[4] then return {1, number(call('HGET', SEQ, 'version'))} end
call('HSET', P .. 'standings', place, ARGV[4])
local version = call('HINCRBY', SEQ, 'version', 1)
call('ZADD', P .. 'changed', version, place)
if ARGV[5] == '' then
  call('HDEL', BARS, place)
else
  call('HSET', BARS, place, ARGV[5])
end
if ARGV[6] == '1' then call('HDEL', PROBES, place) end
next_turn(place)

local function out(lease, ask, text)
  leave(lease, ask, false)
  tell(lease, ask, {lease = lease, out = true, till = text or ''})
end

-- each calls f for all asks of a line.
local function each(line, f)
  for _, member in ipairs(call('ZRANGE', P .. 'line:' .. line, 0, -1)) do
    local lease = string.sub(member, 17)
    local text = call('HGET', ASKS, lease)
    if text then f(lease, cjson.decode(text)) end
  end
end

local function serves(names, ask)
  local until_at, until_text
  for _, name in ipairs(names) do
    local use, at, text = usable(name, ask)
    if use ~= BLOCKED then return true end
    if at and (not until_at or at < until_at) then until_at, until_text = at, text end
  end
  return false, until_text
end

-- expel sends those away whom the account state has left without a candidate.
local function expel()
  for _, pool in ipairs(call('SMEMBERS', P .. 'at:' .. place)) do
    each('p:' .. place .. '|' .. pool, function(lease, ask)
      local use, _, text = usable(place, ask)
      if use == BLOCKED then out(lease, ask, text) end
    end)
  end
  for _, set in ipairs(call('SMEMBERS', P .. 'active')) do
    if call('HEXISTS', P .. 'set:' .. set, place) == 1 then
      local names, served = cjson.decode(call('HGET', P .. 'set:' .. set, '*')).names, {}
      each('s:' .. set, function(lease, ask)
        local like = not ask.exclude and not ask.question and ask.model .. (ask.fast and '+' or '-')
        if like and served[like] then return end
        local ok, text = serves(names, ask)
        if not ok then out(lease, ask, text) elseif like then served[like] = true end
      end)
    end
  end
end

if ARGV[5] ~= '' then expel() end
serve(place)
return {1, version}
