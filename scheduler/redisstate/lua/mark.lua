-- Adds marks to a session: State.Mark. ARGV: 2 session, 3 marks, 4 ttl.
local key = P .. 'session:' .. ARGV[2]
local marks, place = 0, ''
local text = call('GET', key)
if text then
  local expires, m, at = string.match(text, '^(%d+) (%d+) (.*)$')
  if tonumber(expires) > now then marks, place = tonumber(m), at end
end
local add, all, bit = tonumber(ARGV[3]), 0, 1
while bit <= 128 do
  if math.floor(marks / bit) % 2 == 1 or math.floor(add / bit) % 2 == 1 then all = all + bit end
  bit = bit * 2
end
call('SET', key, whole(now + ARGV[4]) .. ' ' .. all .. ' ' .. place, 'PX', ARGV[4])
return 1
