-- Extends leases, and takes those again that the server has lost: their holder
-- has kept renewing them, so nobody else can have been given their slots.
-- ARGV: 2 ttl, 3... lease, place.
local held = {}
for i = 3, #ARGV, 2 do held[#held + 1] = ARGV[i] end
local places = #held > 0 and hmget(HELD, held) or {}
local expires = whole(now + ARGV[2])
for i, lease in ipairs(held) do
  if not places[i] then hold(lease, ARGV[2 * i + 2]) end
  call('ZADD', EXPIRY, expires, lease)
end
return 1
