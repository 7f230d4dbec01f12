-- Deletes some of a day's records, and the day with the last: Ledger.Prune. What
-- they charged is kept as a sum, so that balances can be explained.
--
-- KEYS: 1 the days, 2 the day's records by id, 3 the day's index, 4 and more: users,
-- and indexes by when they were settled. ARGV: 1 day, then for each record, its member
-- in the index, what it took from a balance, and whose, and the index that it is in by
-- when it was settled, as numbers of KEYS, 0 for none.
--
-- Answers how many there were.
local call, count = redis.call, 0
for i = 2, #ARGV, 4 do
  local member, charged, user, settled = ARGV[i], ARGV[i + 1], tonumber(ARGV[i + 2]), tonumber(ARGV[i + 3])
  if call('HDEL', KEYS[2], string.sub(member, 9)) == 1 then
    count = count + 1
    if charged ~= '0' then call('HINCRBY', KEYS[user], 'pruned', charged) end
  end
  call('ZREM', KEYS[3], member)
  if settled > 0 then call('ZREM', KEYS[settled], member) end
end
if call('ZCARD', KEYS[3]) == 0 then
  call('DEL', KEYS[2], KEYS[3])
  call('SREM', KEYS[1], ARGV[1])
end
return count
