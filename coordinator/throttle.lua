-- Generic cell rate algorithm: one bucket, which holds `burst` and gets one back every `every` milliseconds.
-- KEYS[1]: the bucket, holding the instant at which it is full again; KEYS[2]: the table `lead`.
-- ARGV: every, burst, now (milliseconds), and the epoch of the leader that asks, empty if nobody has ever led.
-- Returns 0 after taking one, or the milliseconds until there is one; the key vanishes when the bucket is full. -1: the
-- store is at another epoch.
if (redis.call("HGET", KEYS[2], "epoch") or "") ~= ARGV[4] then return -1 end
local every, burst, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local noted = tonumber(redis.call("GET", KEYS[1]) or 0)
if noted > now + every * burst then noted = 0 end -- no bucket is that empty: the clock was set back since
local full = math.max(noted, now) + every
local wait = full - now - every * burst
if wait > 0 then return math.ceil(wait) end
redis.call("SET", KEYS[1], string.format("%.0f", full), "PX", math.ceil(full - now))
return 0
