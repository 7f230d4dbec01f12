-- Puts an amount on a balance, once: Ledger.Credit.
--
-- ARGV: 1 user, 2 id, 3 amount, 4 its time, in nanoseconds, 5 note.
-- Answers 'credited' | 'twice' | 'stranger' | 'range': the balance can't hold it,
-- and the user's money.
local name, did = ARGV[1], 'twice'
if not is_known(name) then
  did = 'stranger'
elseif call('HEXISTS', P .. 'credits:' .. name, ARGV[2]) == 0 then
  if has_room(name, ARGV[3]) then
    credit(name, ARGV[2], ARGV[3], ARGV[4], ARGV[5])
    changed('u' .. name)
    did = 'credited'
  else
    did = 'range'
  end
end
return {did, money(name)}
