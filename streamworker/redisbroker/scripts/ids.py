"""Entry ids in Lua, compared and counted on as text: numbers in Lua are exact up to 2^53 only, ids go to 2^64."""

from __future__ import annotations

from typing import Final

# later(one, other)  whether `one` is the greater id
LATER: Final = """
local function later(one, other)
  local a, b = {string.match(one, '^(%d+)-(%d+)$')}, {string.match(other, '^(%d+)-(%d+)$')}
  for at = 1, 2 do
    if #a[at] ~= #b[at] then return #a[at] > #b[at] end
    if a[at] ~= b[at] then return a[at] > b[at] end
  end
  return false
end
"""

# behind(id)  the next greater id; of the greatest one, itself
BEHIND: Final = """
local function plus_one(number)
  local at = #number
  while at > 0 and string.sub(number, at, at) == '9' do at = at - 1 end
  local zeros = string.rep('0', #number - at)
  if at == 0 then return '1' .. zeros end
  return string.sub(number, 1, at - 1) .. (string.sub(number, at, at) + 1) .. zeros
end
local function behind(id)
  local greatest = '18446744073709551615'
  local ms, seq = string.match(id, '^(%d+)-(%d+)$')
  if seq ~= greatest then return ms .. '-' .. plus_one(seq) end
  if ms == greatest then return id end
  return plus_one(ms) .. '-0'
end
"""

# named(flat)  a flat list of names and values as a table
NAMED: Final = """
local function named(flat)
  local found = {}
  for at = 1, #flat, 2 do found[flat[at]] = flat[at + 1] end
  return found
end
"""
