-- Gives a user's money: Ledger.Balance. KEYS: 1 the user, 2 its holds.
sweep(KEYS[1], KEYS[2])
return money(KEYS[1])
