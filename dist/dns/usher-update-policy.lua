-- PowerDNS: what the key of usher's nodes may change. What is not allowed here is left out of an update without a
-- word: PowerDNS answers NOERROR all the same.

local key = "usher-key"
local names = { ["www.example.test."] = true, ["echo.example.test."] = true }

function updatepolicy(input)
  -- Other keys are not this script's business; say `return true` if you have some.
  if not input:getTsigName():equal(key) then
    return false
  end
  local owner = input:getQName():toString():lower()
  local qtype = input:getQType()
  -- The addresses of each name.
  if qtype == pdns.A or qtype == pdns.AAAA then
    return names[owner] == true
  end
  -- The nodes' leases, `_usher-NODE.NAME`.
  if qtype == pdns.TXT then
    return names[owner:match("^_usher%-[^.]+%.(.*)$")] == true
  end
  return false
end
