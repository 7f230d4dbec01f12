-- Makes a config's users known, and credits opening balances: Ledger.Declare.
--
-- ARGV: the schema's version, then for each user name, opening balance and
-- unlimited, '1' or '0'.
--
-- Answers 'newer' and the version, if the data is a newer program's, else 'declared'
-- and each one's balance, unlimited, version, what is set aside of it, and removed.
local schema = call('GET', P .. 'schema')
if schema and tonumber(schema) > tonumber(ARGV[1]) then return {'newer', schema} end
if schema ~= ARGV[1] then call('SET', P .. 'schema', ARGV[1]) end
local answer = {'declared'}
for i = 2, #ARGV, 3 do
  local name, opening, unlimited = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key = user_key(name)
  local was = call('HMGET', key, 'balance', 'unlimited', 'source', 'removed', 'opening')
  call('HINCRBY', key, 'version', 1)
  call('HSETNX', key, 'balance', '0')
  if was[2] ~= unlimited or was[3] ~= 'config' or was[4] then
    call('HSET', key, 'unlimited', unlimited, 'source', 'config')
    call('HDEL', key, 'removed', 'concurrency', 'disabled')
    call('SADD', P .. 'users', name)
    changed('u' .. name)
  end
  if unlimited == '0' and not was[5] then
    call('HINCRBY', key, 'balance', opening)
    call('HSET', key, 'opening', opening)
  end
  answer[#answer + 1] = money(name)
end
return answer
