-- One guarded change: checks every guard, then applies every operation. Decides nothing.
-- KEYS: every key that is read or written, each once (all carry the swarm's hash tag, so one cluster slot).
-- ARGV[1]: JSON {guards, operations}. Keys are given by their index in KEYS; values by their index in ARGV, so that
-- bytes of any kind pass through unchanged. An index of 0 means "no value".
--   guards:     ["holds", key, field, value] ["ranked", key, member, most] ["length", key, count]
--   operations: ["put", key, field, value] ["drop", key, field] ["append", key, value]
--               ["rank", key, member, score] ["unrank", key, member] ["bump", key, member, by]
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
  local kind, key = step[1], KEYS[step[2]]
  if kind == "put" then redis.call("HSET", key, ARGV[step[3]], ARGV[step[4]])
  elseif kind == "drop" then redis.call("HDEL", key, ARGV[step[3]])
  elseif kind == "append" then redis.call("RPUSH", key, ARGV[step[3]])
  elseif kind == "rank" then redis.call("ZADD", key, ARGV[step[4]], ARGV[step[3]])
  elseif kind == "unrank" then redis.call("ZREM", key, ARGV[step[3]])
  elseif kind == "bump" then redis.call("ZINCRBY", key, ARGV[step[4]], ARGV[step[3]])
  end
end
return 0
