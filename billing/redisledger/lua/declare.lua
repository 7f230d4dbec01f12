-- Makes a config's users known, and credits opening balances: Ledger.Declare.
--
-- ARGV: 1 the schema's version, then for each user name, opening balance, and '1' if
-- he has no limit, so that it is not credited now.
--
-- Answers 'newer' and the version, if the data is a newer program's, else 'declared'
-- and each one's money.
local schema = call('GET', P .. 'schema')
if schema and tonumber(schema) > tonumber(ARGV[1]) then return {'newer', schema} end
if schema ~= ARGV[1] then call('SET', P .. 'schema', ARGV[1]) end
local answer = {'declared'}
for i = 2, #ARGV, 3 do
  local name, opening, unlimited = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key = user_key(name)
  local was = call('HMGET', key, 'balance', 'source', 'removed', 'opening')
  local is_new = not was[1] or was[3]
  local is_opened = unlimited == '0' and not was[4] and (was[2] ~= 'api' or was[3])
  -- Where nothing changes, nothing is counted: it would be lost unnoticed.
  if is_new or is_opened then call('HINCRBY', key, 'version', 1) end
  if is_new or not was[2] then -- one without a source is of the time before schemas
    call('HSETNX', key, 'balance', '0')
    call('HSET', key, 'source', 'config')
    call('HDEL', key, 'removed')
    call('SADD', P .. 'users', name)
    changed('u' .. name)
  end
  if is_opened then
    call('HINCRBY', key, 'balance', opening)
    call('HSET', key, 'opening', opening)
  end
  answer[#answer + 1] = swept_money(name)
end
return answer
