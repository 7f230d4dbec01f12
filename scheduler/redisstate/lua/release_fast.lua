-- Gives back slots while nobody is in line: State.Release. ARGV: 2... leases.
local rest = {}
local idle = number(call('HGET', SEQ, 'inline')) <= 0
for i = 2, #ARGV do
  local lease = ARGV[i]
  local held = idle and call('HGET', HELD, lease)
  if held and string.sub(held, 1, 1) == 'd' then
    call('HDEL', HELD, lease)
    call('ZREM', EXPIRY, lease)
    call('HINCRBY', INUSE, string.sub(held, 2), -1)
  else
    rest[#rest + 1] = lease
  end
end
if #rest == 0 then return 1 end
