-- Makes users known, and credits opening balances: Ledger.Declare.
--
-- KEYS: the users. ARGV: for each, the opening balance and unlimited, '1' or '0'.
--
-- Answers each one's balance, unlimited and version.
local answer = {}
for i, key in ipairs(KEYS) do
  local opening, unlimited = ARGV[2 * i - 1], ARGV[2 * i]
  redis.call('HINCRBY', key, 'version', 1)
  redis.call('HSETNX', key, 'balance', '0')
  redis.call('HSET', key, 'unlimited', unlimited)
  if unlimited == '0' and redis.call('HEXISTS', key, 'opening') == 0 then
    redis.call('HINCRBY', key, 'balance', opening)
    redis.call('HSET', key, 'opening', opening)
  end
  answer[i] = redis.call('HMGET', key, 'balance', 'unlimited', 'version')
end
return answer
