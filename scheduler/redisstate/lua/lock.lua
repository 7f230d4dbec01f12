-- Takes a lock if nobody holds it: State.Lock. ARGV: 2 name, 3 token, 4 ttl.
local key = P .. 'lock:' .. ARGV[2]
local text = call('GET', key)
if text then
  local expires, token = string.match(text, '^(%d+) (.*)$')
  if token ~= ARGV[3] and tonumber(expires) > now then return 0 end
end
call('SET', key, whole(now + ARGV[4]) .. ' ' .. ARGV[3], 'PX', ARGV[4])
return 1
