-- Brings back account states that the store has lost. ARGV: 2... place, account state as
-- JSON, what it bars as JSON ('' = nothing).
for i = 2, #ARGV, 3 do
  local place = ARGV[i]
  if call('HSETNX', P .. 'standings', place, ARGV[i + 1]) == 1 then
    call('ZADD', P .. 'changed', call('HINCRBY', SEQ, 'version', 1), place)
    if ARGV[i + 2] ~= '' then call('HSET', BARS, place, ARGV[i + 2]) end
    next_turn(place)
  end
end
return 1
