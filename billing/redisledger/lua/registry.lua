-- What scripts about users, keys and subscriptions share. KEYS[1] is the prefix of
-- all keys, which lie in one slot of a Cluster.
local call, P = redis.call, KEYS[1]

local function user_key(name) return P .. 'user:' .. name end
local function holds_key(key) return P .. 'holds:' .. string.sub(key, #P + 1) end
local function subscription_key(name, group) return P .. 'subscription:' .. #name .. ':' .. name .. ':' .. group end
local function number_of(name) return call('HGET', user_key(name), 'number') or '1' end

-- credits_key is where the ids of a user's credits are.
local function credits_key(name)
  local number = number_of(name)
  if number == '1' then return P .. 'credits:' .. name end
  return P .. 'credits_of:' .. number .. ':' .. name
end

local function is_known(name)
  local user = call('HMGET', user_key(name), 'balance', 'removed')
  return user[1] and not user[2]
end

local function is_added(name)
  local user = call('HMGET', user_key(name), 'source', 'removed')
  return user[1] == 'api' and not user[2]
end

-- changed tells all processes what they must not answer from memory any more:
-- 'u' and a user's name, 'r' if he was removed, or 'k' and a key's digest.
local function changed(what)
  local n = call('INCR', P .. 'changes')
  call('RPUSH', P .. 'changes:last', string.format('%.0f', n) .. ':' .. what)
  call('LTRIM', P .. 'changes:last', -1000, -1)
end

-- has_room reports whether an amount can be added to a balance without going beyond
-- what a ledger can hold.
local function has_room(name, amount)
  local balance = call('HGET', user_key(name), 'balance') or '0'
  if string.byte(amount) == 45 then return #balance <= 19 end -- '-'
  return covers('4611686018427387904', balance, amount)
end

-- credit puts an amount on a balance, once for its id.
local function credit(name, id, amount, at, note)
  if call('HSETNX', credits_key(name), id, amount .. ' ' .. at .. ' ' .. note) == 0 then return false end
  call('HINCRBY', user_key(name), 'version', 1)
  call('HINCRBY', user_key(name), 'balance', amount)
  return true
end

-- credit_of_own is a credit that nobody gave an id.
local function credit_of_own(name, id, amount, at)
  if amount == '0' then return end
  while not credit(name, id, amount, at, '') do id = id .. '+' end
end

local function swept_money(name)
  sweep(user_key(name), holds_key(user_key(name)))
  return money(user_key(name))
end

-- profile gives a user's money; source, concurrency and disabled; and his
-- subscriptions: of each, the group and what hold.lua gives.
local function profile(name)
  local subscriptions = {}
  for _, group in ipairs(call('SMEMBERS', P .. 'subscriptions:' .. name)) do
    local s = windows_of(subscription_key(name, group), 'subscribed', 'until')
    if s[1] then subscriptions[#subscriptions + 1] = {group, s} end
  end
  return {swept_money(name), call('HMGET', user_key(name), 'source', 'concurrency', 'disabled'), subscriptions}
end
