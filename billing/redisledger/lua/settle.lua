-- Keeps a record and takes its charge, once: Ledger.Settle.
--
-- KEYS: 1 the user, 2 the days, 3 the day's records by id, 4 the day's index.
-- ARGV: 1 id, 2 record, 3 its member in the index, 4 day, 5 what to add to the
-- user's balance; '' if no balance pays.
--
-- Answers what was done, 'kept' | 'twice': it was there | 'stranger': there is
-- no such user | 'spent': the balance can't go lower, and the user's balance,
-- unlimited and version as they were before.
--
-- Amounts stay text here, because Lua's numbers are floats. A script that fails
-- midway leaves what it has written, so all that a key of the wrong kind can make
-- fail comes before the charge, and the record, which tells that there was one,
-- with it.
local user = redis.call('HMGET', KEYS[1], 'balance', 'unlimited', 'version')
local balance, did = user[1], 'kept'
if redis.call('HEXISTS', KEYS[3], ARGV[1]) == 1 then
  did = 'twice'
elseif ARGV[5] ~= '' and not balance then
  did = 'stranger'
elseif ARGV[5] ~= '' and #balance > 19 then -- -1,000,000,000 dollars and less
  did = 'spent'
else
  redis.call('SADD', KEYS[2], ARGV[4])
  redis.call('ZADD', KEYS[4], 0, ARGV[3])
  if ARGV[5] ~= '' then
    redis.call('HINCRBY', KEYS[1], 'version', 1)
    redis.call('HINCRBY', KEYS[1], 'balance', ARGV[5])
  end
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
end
return {did, user[1], user[2], user[3]}
