-- How busy places are: State.Load. ARGV: 2... places. Answers: slots in use,
-- asks in line and the stamp of the last grant, for each.
sweep(200)
local loads = {}
for i = 2, #ARGV do
  loads[#loads + 1] = call('HGET', INUSE, ARGV[i]) or '0'
  loads[#loads + 1] = call('HGET', WAITING, ARGV[i]) or '0'
  loads[#loads + 1] = call('HGET', LAST, ARGV[i]) or '0'
end
return loads
