-- A purse is what money is set aside on: a hash, whose field held is the sum, and a
-- sorted set of the holds: amount, id and number, by when they expire, in milliseconds.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- give_back ends a hold. The sum comes first: a server without memory refuses that
-- alone.
local function give_back(purse, holds, member)
  redis.call('HINCRBY', purse, 'held', '-' .. string.match(member, '^%d+'))
  redis.call('ZREM', holds, member)
end

-- sweep ends the holds of those who are gone, and tells whether there were any.
local function sweep(purse, holds)
  local gone = redis.call('ZRANGEBYSCORE', holds, '-inf', string.format('%.0f', now))
  for i = 1, #gone do give_back(purse, holds, gone[i]) end
  return #gone > 0
end
