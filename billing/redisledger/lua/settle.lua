-- Keeps a record, takes its charge and ends its hold, once: Ledger.Settle.
--
-- KEYS: 1 the user, 2 the days, 3 the day's records by id, 4 the day's index, 5 the
-- key, 6 the subscription, 7 the user's subscriptions, 8 and more: purses of the
-- hold, each with its holds. ARGV: 1 id, 2 record, 3 its member in the index,
-- 4 day, 5 what to add to the user's balance, '' if no balance pays, 6 what it
-- spent, 7 its time in seconds and 8 in nanoseconds, 9 to 11 the windows that begin
-- with it: begin and end, in seconds, 12 the group, 13 '1' if its subscription
-- pays, 14 the hold's member.
--
-- Answers what was done, 'kept' | 'twice': it was there | 'stranger': there is
-- no such user | 'spent': the balance can't go lower, and the user as balance.lua
-- gives him, as he was before.
--
-- A script that fails midway leaves what it has written, so all that a key of the
-- wrong kind can make fail comes before the charge, and the record, which tells
-- that there was one, with it.
local call, second = redis.call, tonumber(ARGV[7])
local user = call('HMGET', KEYS[1], 'balance', 'unlimited', 'version', 'held', 'removed')
local balance, did = user[1], 'kept'
local key = call('HMGET', KEYS[5], 'user', 'limits', 'last_used', 'daily', 'weekly', 'monthly')
local subscribed = ARGV[13] == '1' and balance and call('HMGET', KEYS[6], 'daily', 'weekly', 'monthly', 'subscribed')
if call('HEXISTS', KEYS[3], ARGV[1]) == 1 then
  did = 'twice'
elseif ARGV[5] ~= '' and not balance then
  return {'stranger', user}
elseif ARGV[5] ~= '' and #balance > 19 then -- -1,000,000,000 dollars and less
  return {'spent', user}
else
  call('SADD', KEYS[2], ARGV[4])
  call('ZADD', KEYS[4], 0, ARGV[3])
end
for i = 8, #KEYS, 2 do
  if call('ZSCORE', KEYS[i + 1], ARGV[14]) then
    call('HINCRBY', KEYS[i], 'held', '-' .. string.match(ARGV[14], '^%d+'))
    call('ZREM', KEYS[i + 1], ARGV[14])
  end
end
if did == 'twice' then return {did, user} end

-- count is Windows.Add: of a purse's windows, as begin and end. A sum of a billion
-- dollars is no sum to add to.
local function count(purse, windows)
  for i, span in ipairs({'daily', 'weekly', 'monthly'}) do
    local first, last = string.match(windows[i] or '', '^(%S+) (%S+)$')
    if not last or second >= tonumber(last) then
      call('HSET', purse, span, ARGV[8 + i], span .. '_used', ARGV[6])
    elseif second >= tonumber(first) and #call('HGET', purse, span .. '_used') < 19 then
      call('HINCRBY', purse, span .. '_used', ARGV[6])
    end
  end
end
if subscribed then
  if not subscribed[1] and not subscribed[4] then call('SADD', KEYS[7], ARGV[12]) end
  count(KEYS[6], subscribed)
end
if key[1] then
  if key[2] ~= '' then count(KEYS[5], {key[4], key[5], key[6]}) end
  if key[3] == '' or covers(ARGV[8], key[3]) then call('HSET', KEYS[5], 'last_used', ARGV[8]) end
end
if ARGV[5] ~= '' then
  call('HINCRBY', KEYS[1], 'version', 1)
  call('HINCRBY', KEYS[1], 'balance', ARGV[5])
end
call('HSET', KEYS[3], ARGV[1], ARGV[2])
return {did, user}
