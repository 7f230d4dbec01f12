-- Gives back slots and places in line, where the usual was not enough.
for _, lease in ipairs(rest) do drop(lease) end
return 1
