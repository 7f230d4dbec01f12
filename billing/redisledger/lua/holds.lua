-- Says that holds go on, or end: some hundreds at once.
--
-- KEYS: for each, its budget, the budget's holds, and the user. ARGV: 1 'renew' |
-- 'revive': those that are not there as well | 'end', 2 for how long they go on, in
-- milliseconds; then for each, its member of the holds, a field that the budget has
-- as long as there is one, '' if that does not matter, and the number of its user.
--
-- Answers which of those to renew are not there, counted from 1.
local missing, expiry = {}, string.format('%.0f', now + ARGV[2])
for i = 1, #KEYS / 3 do
  local budget, holds, user = KEYS[3 * i - 2], KEYS[3 * i - 1], KEYS[3 * i]
  local member, field, number = ARGV[3 * i], ARGV[3 * i + 1], ARGV[3 * i + 2]
  local is_there = redis.call('ZSCORE', holds, member)
  if ARGV[1] == 'end' then
    if is_there then give_back(budget, holds, member) end
  elseif is_there then
    redis.call('ZADD', holds, expiry, member)
  elseif ARGV[1] == 'renew' then
    missing[#missing + 1] = i
  else
    local u = money(user)
    if u[1] and not u[4] and (number == '0' or number == (u[5] or '1'))
        and (field == '' or redis.call('HEXISTS', budget, field) == 1) then
      redis.call('HINCRBY', budget, 'held', string.match(member, '^%d+'))
      redis.call('ZADD', holds, expiry, member)
    end
  end
end
return missing
