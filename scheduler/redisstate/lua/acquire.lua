-- Takes a slot where the usual was not enough: something is full or barred, or
-- there are places to choose from.
local ask = {
  node = node, ttl = ttl, pool = ARGV[7], user = ARGV[8], model = ARGV[9], fast = ARGV[10] == '1',
  endpoint = ARGV[18], question = ARGV[19] == '1',
}
if session then ask.session, ask.bind = session, tonumber(ARGV[12]) end
if ARGV[20] ~= '' then ask.memory = ARGV[20] end
if #ARGV > 20 then ask.exclude = {unpack(ARGV, 21)} end
local ignore_load = ARGV[14] == '1'

-- none ends the lease, which got nothing.
local function none(answer)
  call('ZREM', EXPIRY, lease)
  return answer
end

if set ~= '' and ARGV[6] == '' and call('EXISTS', key) == 0 then return none({'set'}) end
sweep(20)

local function free(place, limit, use, inuse)
  return not halted and (limit <= 0 or inuse < limit)
    and (use == AVAILABLE or not on_trial(place))
end

local function chosen(place, use, own, last)
  call('HINCRBY', INUSE, place, 1)
  if use == TRIAL then try(place, lease) end
  return granted(place, use == TRIAL and 'p' or 'd', own, last > 0, use == TRIAL)
end

local function queue(place, limit, sticky)
  ask.counted, ask.sticky = place, sticky
  if sticky or #definition().names == 1 then
    ask.solo, ask.limit, ask.line = place, limit, 'p:' .. place .. '|' .. ask.pool
    call('SADD', P .. 'at:' .. place, ask.pool)
    call('SADD', P .. 'solo', place)
    local most = tonumber(call('HGET', MOST, place) or -1)
    if most < 0 or most > 0 and (limit <= 0 or limit > most) then call('HSET', MOST, place, math.max(limit, 0)) end
  else
    ask.set, ask.line = set, 's:' .. set
    call('SADD', P .. 'active', set)
  end
  local pool, last = P .. 'pool:' .. ask.pool, 'l:' .. ask.user
  ask.rank = math.max(number(call('HGET', pool, 's')), tonumber(call('HGET', pool, last) or -1) + 1)
  call('HSET', pool, last, ask.rank)
  call('HINCRBY', pool, 'w:' .. ask.user, 1)
  call('HINCRBY', pool, 'w', 1)
  ask.arrival = call('HINCRBY', SEQ, 'arrival', 1)
  ask.member = string.format('%016d', ask.arrival) .. lease
  call('ZADD', P .. 'line:' .. ask.line, ask.rank, ask.member)
  call('HSET', ASKS, lease, cjson.encode(ask))
  call('HINCRBY', WAITING, place, 1)
  call('HINCRBY', SEQ, 'inline', 1)
  return {'queued', place, sticky and 1 or 0}
end

if ask.session and ARGV[13] ~= '1' then
  local place = bound
  local limit = place ~= '' and limit_of(place)
  local use, last, everyone = BLOCKED, 0, false
  if limit then
    local _
    use, _, _, last, everyone = usable(place, ask)
  end
  if use ~= BLOCKED and not everyone then
    if free(place, limit, use, number(call('HGET', INUSE, place))) then return chosen(place, use, true, last) end
    if number(call('HGET', WAITING, place)) < tonumber(ARGV[15]) then return queue(place, limit, true) end
  end
end

local d = definition()
local names, limits, priorities, unused_first = d.names, d.limits, d.priorities, d.first or {}
local inuse, last = hmget(INUSE, names), hmget(LAST, names)
local waiting = number(call('HGET', SEQ, 'inline')) > 0 and hmget(WAITING, names) or {}
local barred = call('HLEN', BARS) > 0 and hmget(BARS, names)
local max_waiting = tonumber(ARGV[16])

-- best is the index of the best free place, or of the best with room in its
-- line while none is free; by Better.
local best, best_free, best_use, best_end, any, until_at, until_text
local best_busy, best_slots, best_last, best_first = 0, 1, 0, false
for i = 1, #names do
  local use, at, text, ends = AVAILABLE, nil, nil, 0
  if barred or ask.exclude then
    if barred then known[names[i]] = barred[i] and cjson.decode(barred[i]) or false end
    use, at, text, ends = usable(names[i], ask)
  end
  if use == BLOCKED then
    if at and (not until_at or at < until_at) then until_at, until_text = at, text end
  else
    any = true
    local held, line, limit = number(inuse[i]), number(waiting[i]), limits[i]
    local is_free = free(names[i], limit, use, held)
    if is_free or not best_free and line < max_waiting then
      local busy, slots = 0, 1
      if limit > 0 then busy, slots = held + line, limit end
      local used, goes_first = number(last[i]), unused_first[tostring(i)] == true
      local better
      if not best or is_free and not best_free then
        better = true
      elseif ends ~= best_end then
        better = ends < best_end
      elseif priorities[i] ~= priorities[best] then
        better = priorities[i] < priorities[best]
      elseif not ignore_load and busy * best_slots ~= best_busy * slots then
        better = busy * best_slots < best_busy * slots
      elseif used ~= best_last then
        better = used < best_last
      else
        better = used == 0 and goes_first and not best_first
      end
      if better then
        best, best_free, best_use, best_end = i, is_free, use, ends
        best_busy, best_slots, best_last, best_first = busy, slots, used, goes_first
      end
    end
  end
end
if best_free then return chosen(names[best], best_use, false, best_end) end
if best then return queue(names[best], limits[best], false) end
if any then return none({'full'}) end
return none({'out', until_text or ''})
