-- Gives users: Ledger.User and Users. ARGV: their names.
local answer = {}
for i, name in ipairs(ARGV) do answer[i] = profile(name) end
return answer
