-- Deletes some of a day's records, and the day with the last: Ledger.Prune. What
-- they charged is kept as a sum, so that balances can be explained.
--
-- KEYS: 1 the days, 2 the day's records by id, 3 the day's index, 4 and more: users.
-- ARGV: 1 day, then for each record, its member in the index, what it took from a
-- balance, and whose, as a number of KEYS.
--
-- Answers how many there were.
local call, count = redis.call, 0
for i = 2, #ARGV, 3 do
  local member, charged, user = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  if call('HDEL', KEYS[2], string.sub(member, 9)) == 1 then
    count = count + 1
    if charged ~= '0' then call('HINCRBY', KEYS[tonumber(user)], 'pruned', charged) end
  end
  call('ZREM', KEYS[3], member)
end
if call('ZCARD', KEYS[3]) == 0 then
  call('DEL', KEYS[2], KEYS[3])
  call('SREM', KEYS[1], ARGV[1])
end
return count
