-- Frees a lock if it is the token's still. ARGV: 2 name, 3 token.
local key = P .. 'lock:' .. ARGV[2]
local text = call('GET', key)
if text and string.match(text, ' (.*)$') == ARGV[3] then
  call('DEL', key)
  redis.pcall('PUBLISH', P .. 'unlocked', ARGV[2]) -- those who wait look by themselves too
end
return 1
