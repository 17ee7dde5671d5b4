-- Sends each of the requests in a file once, as they stand there, then ends the run. The file holds, for each, its
-- length in decimal, a line feed and its bytes. Prints one JSON object.
local ffi = require("ffi")
ffi.cdef([[
  int kill(int pid, int signal);
  int getpid(void);
  struct timespec { long seconds; long nanoseconds; };
  int clock_gettime(int clock, struct timespec *now);
]])

local requests, sent, sender = {}, 0, nil
started_s, started_cpu_s = 0, 0 -- `thread:get` sees globals only

local function monotonic_s()
  local now = ffi.new("struct timespec")
  ffi.C.clock_gettime(1, now)
  return tonumber(now.seconds) + tonumber(now.nanoseconds) / 1e9
end

function setup(thread)
  sender = thread
end

function init(arguments)
  local file = assert(io.open(arguments[1], "rb"))
  for length in function() return file:read("*n") end do
    file:read(1)
    requests[#requests + 1] = file:read(length)
  end
  file:close()
end

function request()
  sent = sent + 1
  if sent == 2 then -- wrk asks for the first one while it sets itself up, and does not send it
    started_s, started_cpu_s = monotonic_s(), os.clock()
  end
  if sent > #requests then
    wrk.thread:stop()
    ffi.C.kill(ffi.C.getpid(), 2) -- wrk sleeps until its time is over; an interrupt wakes it
    sent = 2
  end
  return requests[sent]
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format(
    '\n{"answered": %d, "seconds": %.6f, "refused": %d, "broken": %d, "p50_ms": %.3f, "p99_ms": %.3f, '
      .. '"started_s": %.6f, "cpu_s": %.3f}\n',
    summary.requests, summary.duration / 1e6, errors.status,
    errors.connect + errors.read + errors.write + errors.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    sender:get("started_s"), os.clock() - sender:get("started_cpu_s")
  ))
end
