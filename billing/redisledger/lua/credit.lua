-- Puts an amount on a balance, once: Ledger.Credit.
--
-- ARGV: 1 user, 2 id, 3 amount, 4 its time, in nanoseconds, 5 note, 6 the process's
-- name, 7 the number that the user must have, '0' for any.
-- Answers 'credited' | 'twice' | 'unknown user' | 'range': the balance can't hold it, and
-- the user's money, and the process's count of what it settled.
local name, did = ARGV[1], 'twice'
if not is_known(name) or ARGV[7] ~= '0' and ARGV[7] ~= number_of(name) then
  did = 'unknown user'
elseif call('HEXISTS', credits_key(name), ARGV[2]) == 0 then
  if has_room(name, ARGV[3]) then
    credit(name, ARGV[2], ARGV[3], ARGV[4], ARGV[5])
    changed('u' .. name)
    did = 'credited'
  else
    did = 'range'
  end
end
return {did, swept_money(name), call('INCR', P .. 'settled:' .. ARGV[6])}
