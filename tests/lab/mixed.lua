-- Requests of two developers and of everybody, in turns that differ by thread; every answer must come from who it is for.
local users = { "-", "ada", "eve", "-", "ada", "-", "eve" }
local number = 0
threads = {}
wrong = 0
fallen = 0 -- eve's, answered by the pods in her app's stead

function setup(thread)
   table.insert(threads, thread)
end

function request()
   number = number + 1
   local user = users[number % #users + 1]
   if user == "-" then
      return wrk.format("GET", "/")
   end
   return wrk.format("GET", "/", { ["x-user"] = user, ["Host"] = wrk.host })
end

function response(status, headers, body)
   local who, user = body:match("^(%S+) (%S+)\n$")
   local right = user == "-" and who and who:match("^web%-") or user == who
   if status == 200 and user == "eve" and who:match("^web%-") then
      fallen = fallen + 1
   elseif status ~= 200 or not right then
      wrong = wrong + 1
   end
end

function done(summary)
   local wrong, fallen = 0, 0
   for _, thread in ipairs(threads) do
      wrong, fallen = wrong + thread:get("wrong"), fallen + thread:get("fallen")
   end
   local errors = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
   io.write(string.format("requests=%d wrong=%d fallen=%d errors=%d\n", summary.requests, wrong, fallen, errors))
end
