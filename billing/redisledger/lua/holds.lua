-- Says that holds go on, or end: for all of a process, some hundreds at once.
--
-- KEYS: for each, its purse and the purse's holds. ARGV: 1 for how long they go on,
-- in milliseconds, 0: they end; then for each, its member of the holds, and a field
-- that the purse has unless it was deleted, '' if that does not matter.
--
-- Answers which had to be set aside anew, counted from 1: Redis had forgotten them,
-- or never knew.
local anew, expiry = {}, ARGV[1] ~= '0' and string.format('%.0f', now + ARGV[1])
for i = 1, #KEYS / 2 do
  local purse, holds, member, field = KEYS[2 * i - 1], KEYS[2 * i], ARGV[2 * i], ARGV[2 * i + 1]
  if not expiry then
    if redis.call('ZSCORE', holds, member) then give_back(purse, holds, member) end
  elseif redis.call('ZADD', holds, expiry, member) == 1 then
    if field == '' or redis.call('HEXISTS', purse, field) == 1 then
      redis.call('HINCRBY', purse, 'held', string.match(member, '^%d+'))
      anew[#anew + 1] = i
    else
      redis.call('ZREM', holds, member)
    end
  end
end
return anew
