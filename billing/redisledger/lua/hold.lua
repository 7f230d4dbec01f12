-- Sets money aside: Ledger.Hold.
--
-- KEYS: 1 the guard's hash, 2 the user, 3 the key, 4 the subscription, 5 to 7 the
-- holds of each. ARGV: 1 the guard's field, '' for no guard, 2 the member of the
-- holds, 3 amount, 4 least, 5 for how long, in milliseconds, 6 what pays: 'balance' |
-- 'none' | 'subscription', one that the ledger has | 'declared', one that it need not
-- have, 7 the end of a declared one, in nanoseconds, '' for none, 8 to 10 the group's
-- limits, 11 to 13 what is not known here yet, of the balance, the key and the
-- subscription, 14 to 16 the windows that begin today: begin and end, in seconds.
--
-- Answers 'later': the guard is gone | 'unknown user' | 'refused' | 'held', and for the
-- latter two, what there was before, of the user, of the key, of the subscription, and
-- the time in microseconds. What refuses is for Go to say, by the same rules.
if ARGV[1] ~= '' and redis.call('HEXISTS', KEYS[1], ARGV[1]) == 0 then return {'later'} end
local amount, least, pays, second = ARGV[3], ARGV[4], ARGV[6], math.floor(now / 1000)

sweep(KEYS[2], KEYS[5])
local user = money(KEYS[2])
if not user[1] or user[4] then return {'unknown user'} end

-- fits is billing.Windows.Lacks. A sum of a billion dollars is no sum to add to.
local is_today = second >= tonumber(string.match(ARGV[14], '^%S+')) and second < tonumber(string.match(ARGV[14], '%S+$'))
local function fits(name, limits, budget, unknown)
  for i, span in ipairs({'daily', 'weekly', 'monthly'}) do
    local first = string.match(budget[3 + i] or '', '^%S+')
    if first and second < tonumber(first) and is_today then -- a clock was wrong: it begins today
      budget[3 + i] = ARGV[13 + i]
      redis.call('HSET', name, span, budget[3 + i])
    end
  end
  local held = budget[3] or '0'
  if #held > 18 then return false end
  for i = 1, 3 do
    local last = string.match(budget[3 + i] or '', '%S+$')
    if limits[i] ~= '0' and least ~= '0' then
      local spent = last and second < tonumber(last) and budget[6 + i] or '0'
      if not covers(limits[i], spent, held, unknown, least) then return false end
    end
  end
  return true
end

local budget, holds, met, subscription = KEYS[2], KEYS[5], true, false
if pays == 'none' then
  budget = nil
elseif pays == 'balance' then
  local held = user[3] or '0'
  met = least == '0' or #held < 19 and covers(user[1], held, ARGV[11], least)
else
  budget, holds = KEYS[4], KEYS[7]
  sweep(budget, holds)
  subscription = windows_of(budget, 'subscribed', 'until')
  local last = ARGV[7]
  if pays == 'subscription' then last = subscription[2] or '' end
  local is_there = pays == 'declared' or subscription[1]
  local is_over = last ~= '' and not covers(last, shown .. '000', '1')
  local has_room = fits(budget, {ARGV[8], ARGV[9], ARGV[10]}, subscription, ARGV[13])
  if not is_there or is_over or not has_room then met = false end
end

local key = windows_of(KEYS[3], 'user', 'limits')
if key[1] and key[2] ~= '' then
  if sweep(KEYS[3], KEYS[6]) then key[3] = redis.call('HGET', KEYS[3], 'held') end
  if not fits(KEYS[3], {string.match(key[2], '^(%d+) (%d+) (%d+)$')}, key, ARGV[12]) then met = false end
else
  key = false
end
if not met then return {'refused', user, key, subscription, shown} end

if amount ~= '0' then
  local function set_aside(budget, holds)
    if redis.call('ZADD', holds, string.format('%.0f', now + ARGV[5]), ARGV[2]) == 1 then
      redis.call('HINCRBY', budget, 'held', amount)
    end
  end
  if budget then set_aside(budget, holds) end
  if key then set_aside(KEYS[3], KEYS[6]) end
end
return {'held', user, key, subscription, shown}
