-- A budget is what money is set aside on: a hash, whose field held is the sum, and a
-- sorted set of the holds: amount, id and number, by when they expire, in
-- milliseconds. All times are this server's.
local time = redis.call('TIME')
local micros = time[1] * 1000000 + time[2]
local now = math.floor(micros / 1000)
local shown = string.format('%.0f', micros) -- the time in microseconds, as text

-- money are the fields of a user that parseTold reads.
local function money(user)
  return redis.call('HMGET', user, 'balance', 'version', 'held', 'removed', 'number')
end

-- windows_of are the fields of a subscription, or with limits those of a key, that
-- parseWindows reads.
local function windows_of(key, first, second)
  return redis.call('HMGET', key, first, second, 'held',
    'daily', 'weekly', 'monthly', 'daily_used', 'weekly_used', 'monthly_used')
end

-- give_back ends a hold. The sum comes first: a server without memory refuses that
-- alone.
local function give_back(budget, holds, member)
  redis.call('HINCRBY', budget, 'held', '-' .. string.match(member, '^%d+'))
  redis.call('ZREM', holds, member)
end

-- sweep ends the holds of those who are gone, and reports whether there were any.
local function sweep(budget, holds)
  local gone = redis.call('ZRANGEBYSCORE', holds, '-inf', string.format('%.0f', now))
  for i = 1, #gone do give_back(budget, holds, gone[i]) end
  return #gone > 0
end
