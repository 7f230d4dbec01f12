-- Keeps a record, takes its charge and ends its hold, once: Ledger.Settle.
--
-- KEYS: 1 the user, 2 the days, 3 the day's records by id, 4 the day's index, 5 the
-- key, 6 the subscription, 7 the user's subscriptions, 8 the process's count of what
-- it settled, 9 when a record was last settled, 10 the begin of the names of the
-- indexes by that, 11 the days that were deleted; 12 and more: budgets of the hold, each with its holds. ARGV: 1 id,
-- 2 record, 3 its member in the index, 4 day, 5 what to add to the user's balance, ''
-- if no balance pays, 6 what it spent, 7 how long ago the request came, in
-- microseconds, 8 to 10 the windows that begin with it: begin and end, in seconds,
-- 11 the group, 12 '1' if its subscription pays, 13 the hold's member, 14 when the
-- process knows that a record was settled, in microseconds, 15 the user's number, '0'
-- for whoever has the name, 16 its time in seconds if it may have been settled once, and
-- its day been deleted since, else ''.
--
-- Answers what was done, 'kept' | 'twice': it was there | 'unknown user': there is no such
-- user | 'spent': the balance can't go lower | 'clock': it was another day when the
-- request came | 'deleted': its day was; and the user as he was before, the process's count, when it was
-- settled, or when the request came, and the time, in microseconds.
--
-- A script that fails midway leaves what it has written, so all that a key of the
-- wrong kind can make fail comes before the charge, and the record, which tells
-- that there was one, with it.
local call, second = redis.call, math.floor((micros - ARGV[7]) / 1000000)
local at = string.format('%.0f', micros - ARGV[7])
local user = money(KEYS[1])
local balance, change, did, settled = user[1], ARGV[5], 'kept', '0'
local key = call('HMGET', KEYS[5], 'user', 'limits', 'last_used', 'daily', 'weekly', 'monthly')
local subscribed = ARGV[12] == '1' and balance and call('HMGET', KEYS[6], 'daily', 'weekly', 'monthly', 'subscribed')
-- Who came after the one that was removed pays nothing of his.
local is_gone = balance and (user[4] or ARGV[15] ~= '0' and ARGV[15] ~= (user[5] or '1'))
if is_gone then key, subscribed = {false}, false end
local count = call('INCR', KEYS[8])
local deleted = ARGV[16] ~= '' and string.match(call('GET', KEYS[11]) or '', '%S+$')
if call('HEXISTS', KEYS[3], ARGV[1]) == 1 then
  did = 'twice'
elseif deleted and tonumber(ARGV[16]) < tonumber(deleted) then
  return {'deleted', user, count, settled, shown}
elseif change ~= '' and not balance then
  return {'unknown user', user, count, settled, shown}
elseif change ~= '' and #balance > 19 then -- -1,000,000,000 dollars and less
  return {'spent', user, count, settled, shown}
elseif subscribed or key[1] and key[2] ~= '' then
  local first, last = string.match(ARGV[8], '^(%S+) (%S+)$')
  if second < tonumber(first) or second >= tonumber(last) then return {'clock', user, count, at, shown} end
end
if did == 'kept' then
  settled = string.format('%016.0f', math.max(micros, tonumber(ARGV[14]) + 1, (tonumber(call('GET', KEYS[9])) or 0) + 1))
  call('SET', KEYS[9], settled)
  call('SADD', KEYS[2], ARGV[4])
  call('ZADD', KEYS[4], 0, ARGV[3])
  call('ZADD', KEYS[10] .. math.floor(settled / 86400e6), settled, ARGV[3])
end
for i = 12, #KEYS, 2 do
  if call('ZSCORE', KEYS[i + 1], ARGV[13]) then give_back(KEYS[i], KEYS[i + 1], ARGV[13]) end
end
if did == 'twice' then return {did, user, count, settled, shown} end

-- add is billing.Windows.Moved and Add, of a budget's windows, as begin and end. What
-- came on an earlier day moves none: the next that comes today does. A sum of a billion
-- dollars is no sum to add to.
local is_today = now / 1000 < tonumber(string.match(ARGV[8], '%S+$'))
local function add(budget, windows)
  for i, span in ipairs({'daily', 'weekly', 'monthly'}) do
    local first, last = string.match(windows[i] or '', '^(%S+) (%S+)$')
    if not last or second >= tonumber(last) then
      call('HSET', budget, span, ARGV[7 + i], span .. '_used', ARGV[6])
    else
      local is_ahead = is_today and now / 1000 < tonumber(first) -- a clock was wrong: it begins today
      if is_ahead then call('HSET', budget, span, ARGV[7 + i]) end
      if (is_ahead or second >= tonumber(first)) and #call('HGET', budget, span .. '_used') < 19 then
        call('HINCRBY', budget, span .. '_used', ARGV[6])
      end
    end
  end
end
if subscribed then
  if not subscribed[1] and not subscribed[4] then call('SADD', KEYS[7], ARGV[11]) end
  add(KEYS[6], subscribed)
end
if key[1] then
  if key[2] ~= '' then add(KEYS[5], {key[4], key[5], key[6]}) end
  if key[3] == '' or covers(at .. '000', key[3]) or not covers(shown .. '000', key[3]) then call('HSET', KEYS[5], 'last_used', at .. '000') end
end
if is_gone then
  if change ~= '' and change ~= '0' then call('HINCRBY', KEYS[1], 'forgiven', string.sub(change, 2)) end
elseif change ~= '' then
  call('HINCRBY', KEYS[1], 'version', 1) -- who may do this may do the next but one
  call('HSET', KEYS[3], ARGV[1], ARGV[2] .. settled)
  call('HINCRBY', KEYS[1], 'balance', change)
  return {did, user, count, settled, shown}
end
call('HSET', KEYS[3], ARGV[1], ARGV[2] .. settled)
return {did, user, count, settled, shown}
