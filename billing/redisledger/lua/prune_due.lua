-- Reports whether a day may be deleted now: no other was in the last hour.
--
-- KEYS: 1 the day that was deleted last, as its end, and when, and the last day of all
-- that were. ARGV: 1 the day's end, 2 the hour; all in seconds.
local day, at, last = string.match(redis.call('GET', KEYS[1]) or '', '^(%S+) (%S+) (%S+)$')
local second = math.floor(now / 1000)
if day and day ~= ARGV[1] and second >= tonumber(at) and second - at < tonumber(ARGV[2]) then return 0 end
last = string.format('%.0f', math.max(tonumber(last or '0'), tonumber(ARGV[1])))
redis.call('SET', KEYS[1], ARGV[1] .. ' ' .. string.format('%.0f', second) .. ' ' .. last)
return 1
