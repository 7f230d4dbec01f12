-- Gives how many changes there have been, and the process's count of what it settled,
-- which goes on for as long as the process does (see settle.lua), and the time in
-- microseconds.
--
-- KEYS: 1 the changes, 2 the count. ARGV: for how long it goes on, in milliseconds.
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return {redis.call('GET', KEYS[1]) or '0', redis.call('GET', KEYS[2]) or '0', shown}
