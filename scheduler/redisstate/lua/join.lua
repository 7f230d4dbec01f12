-- Makes a node known, and takes its word for the slots that it holds.
--
-- ARGV: 2 node, 3 whether it was known before or knows of a loss, 4 the number n
-- of leases given back meanwhile, then these, then lease, place and the
-- milliseconds that are left of those held. Answers: the beat that this is,
-- whether the store had been lost.
local lost = ARGV[3] == '1' and call('EXISTS', NODES) == 0 or ARGV[3] == '2'
if lost then
  -- The other nodes' slots are not known yet: none is given until they are.
  call('HSET', SEQ, 'settling', whole(now + 1500))
  call('ZADD', TURNS, whole(now + 1500), '*')
end
call('ZADD', NODES, whole(now), ARGV[2])
call('HSET', SEQ, 'n:' .. ARGV[2], 1)
local n = tonumber(ARGV[4])
for i = 5, 4 + n do
  local lease = ARGV[i] -- most are known no longer
  if call('ZSCORE', EXPIRY, lease) or call('HEXISTS', ANSWERS, lease) == 1 then drop(lease) end
end
for i = 5 + n, #ARGV, 3 do
  local lease, place, expires = ARGV[i], ARGV[i + 1], now + ARGV[i + 2]
  if call('HEXISTS', HELD, lease) == 0 then hold(lease, place) end
  if number(call('ZSCORE', EXPIRY, lease)) < expires then call('ZADD', EXPIRY, whole(expires), lease) end
end
return {whole(now), lost and 1 or 0}
