-- Amounts, and times in nanoseconds, are text, because Lua's numbers are floats:
-- exact up to 15 digits, and longer ones as two parts.
local function parts(text)
  if #text < 16 then return 0, tonumber(text) end
  local low = tonumber(string.sub(text, -9))
  if string.byte(text) == 45 then low = -low end -- '-'
  return tonumber(string.sub(text, 1, -10)), low
end

-- covers reports, exactly, whether the others can be taken from an amount, so that
-- 0 or more is left. There may be four.
local function covers(amount, ...)
  local high, low = parts(amount)
  for _, other in ipairs({...}) do
    local h, l = parts(other)
    high, low = high - h, low - l
  end
  return high * 1e9 + low >= 0
end
