-- One guarded change: checks every guard, then applies every operation. Decides nothing.
-- KEYS: every key that is read or written, each once (all carry the swarm's hash tag, so one cluster slot).
-- ARGV[1]: JSON {guards, operations}. Keys are given by their index in KEYS; values by their index in ARGV, so that
-- bytes of any kind pass through unchanged. An index of 0 means "no value".
--   guards:     ["holds", key, field, value] ["ranked", key, member, most] ["length", key, count]
--   operations: [command, key, first, last]: HSET, HDEL, RPUSH, ZADD, ZREM or ZINCRBY with ARGV[first] to ARGV[last],
--   or UNLINK with none (last is before first)
-- Scores travel as strings: a Lua number would lose digits on the way back.
-- Returns 0 when applied, or the 1-based index of the first guard that does not hold.
local plan = cjson.decode(ARGV[1])
for index, guard in ipairs(plan[1]) do
  local kind, key = guard[1], KEYS[guard[2]]
  if kind == "holds" then
    local found = redis.call("HGET", key, ARGV[guard[3]])
    local wanted = guard[4] ~= 0 and ARGV[guard[4]] or false
    if found ~= wanted then return index end
  elseif kind == "ranked" then
    local score = redis.call("ZSCORE", key, ARGV[guard[3]])
    if not score or tonumber(score) > tonumber(ARGV[guard[4]]) then return index end
  elseif redis.call("LLEN", key) ~= tonumber(ARGV[guard[3]]) then
    return index
  end
end
for _, step in ipairs(plan[2]) do
  redis.call(step[1], KEYS[step[2]], unpack(ARGV, step[3], step[4]))
end
return 0
