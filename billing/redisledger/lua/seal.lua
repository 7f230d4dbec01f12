-- Has nothing be settled before a time any more, if that is not ahead.
--
-- KEYS: 1 when a record was last settled. ARGV: the time before, in microseconds.
-- Answers when a record was last settled.
local last = redis.call('GET', KEYS[1]) or '0'
if tonumber(ARGV[1]) <= tonumber(last) or tonumber(ARGV[1]) > micros then return last end
redis.call('SET', KEYS[1], ARGV[1])
return ARGV[1]
