-- Sets money aside: Ledger.Hold.
--
-- KEYS: 1 the guard's hash, 2 the user, 3 the key, 4 the subscription, 5 to 7 the
-- holds of each. ARGV: 1 the guard's field, '' for no guard, 2 the member of the
-- holds, 3 amount, 4 least, 5 for how long, in milliseconds, 6 the record's time,
-- in seconds and 7 in nanoseconds, 8 what pays: 'balance' | 'subscription', one
-- that the ledger has | 'declared', one that it need not have | 'expired', one
-- that is over, 9 to 11 the group's limits, 12 to 14 what records in the spool will
-- take from the balance, from the key and from the subscription.
--
-- Answers 'later': the guard is gone | 'stranger' | 'refused' | 'held', and for the
-- latter two, who pays and what there was before: of the user, of the key, of the
-- subscription. What refuses is for Go to tell, by the same rules.
if ARGV[1] ~= '' and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'later'} end
local amount, least, second, pays = ARGV[3], ARGV[4], tonumber(ARGV[6]), ARGV[8]

sweep(KEYS[2], KEYS[5])
local user = redis.call('HMGET', KEYS[2], 'balance', 'unlimited', 'version', 'held', 'removed')
if not user[1] or user[5] then return {'stranger'} end

-- fits is Windows.Lacks, of what a purse's windows are. A sum of a billion dollars
-- is no sum to add to.
local function fits(limits, held, waits, windows, used)
  if held and #held > 18 then return false end
  for i = 1, 3 do
    local limit, last = limits[i], windows[i] and string.match(windows[i], ' (.*)')
    if limit ~= '0' and least ~= '0' then
      local spent = last and second < tonumber(last) and used[i] or '0'
      if not covers(limit, spent, held or '0', waits, least) then return false end
    end
  end
  return true
end

local payer, purse, holds, met, subscription = 'balance', KEYS[2], KEYS[5], true, false
if pays ~= 'balance' then
  payer, purse, holds = 'subscription', KEYS[4], KEYS[7]
  sweep(purse, holds)
  subscription = redis.call('HMGET', purse, 'subscribed', 'until', 'held',
    'daily', 'weekly', 'monthly', 'daily_used', 'weekly_used', 'monthly_used')
  local s = subscription
  if pays == 'expired' or pays == 'subscription' and not s[1] then
    met = false
  elseif pays == 'subscription' and s[2] ~= '' and not covers(s[2], ARGV[7], '1') then
    met = false
  else
    met = fits({ARGV[9], ARGV[10], ARGV[11]}, s[3], ARGV[14], {s[4], s[5], s[6]}, {s[7], s[8], s[9]})
  end
elseif user[2] == '1' then
  payer, purse = 'none', nil
elseif user[4] and #user[4] > 18 then
  met = false
else
  met = least == '0' or covers(user[1], user[4] or '0', ARGV[12], least)
end

local key = redis.call('HMGET', KEYS[3], 'user', 'limits', 'held',
  'daily', 'weekly', 'monthly', 'daily_used', 'weekly_used', 'monthly_used')
if key[1] and key[2] ~= '' then
  if sweep(KEYS[3], KEYS[6]) then key[3] = redis.call('HGET', KEYS[3], 'held') end
  local limits = {string.match(key[2], '^(%d+) (%d+) (%d+)$')}
  met = met and fits(limits, key[3], ARGV[13], {key[4], key[5], key[6]}, {key[7], key[8], key[9]})
else
  key = false
end
if not met then return {'refused', payer, user, key, subscription} end

if amount ~= '0' then
  local function set_aside(purse, holds)
    if redis.call('ZADD', holds, string.format('%.0f', now + ARGV[5]), ARGV[2]) == 1 then
      redis.call('HINCRBY', purse, 'held', amount)
    end
  end
  if purse then set_aside(purse, holds) end
  if key then set_aside(KEYS[3], KEYS[6]) end
end
return {'held', payer, user, key, subscription}
