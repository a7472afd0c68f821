-- Requests of two developers and of everybody, in turns; every answer must come from who it is for. With the argument
-- `posts` some have bodies of different sizes, of which the answer must tell the length; with `anyones` the pods may answer
-- all of them.
local users = { "-", "ada", "eve", "-", "ada", "-", "eve" }
local sizes = { 0, 0, 0, 1, 0, 100, 0, 0, 5000, 0, 70000 }
local number = 0
local posts, anyones = false, false
threads = {}
wrong = 0
fallen = 0 -- answered by the pods in an app's stead

function setup(thread)
   table.insert(threads, thread)
end

function init(args)
   posts, anyones = args[1] == "posts", args[1] == "anyones"
end

function request()
   number = number + 1
   local user = users[number % #users + 1]
   local size = posts and sizes[number % #sizes + 1] or 0
   local headers = { ["Host"] = wrk.host }
   if user ~= "-" then
      headers["x-user"] = user
   end
   if size == 0 then
      return wrk.format("GET", "/", headers)
   end
   headers["x-size"] = size
   return wrk.format("POST", "/", headers, string.rep("x", size))
end

function response(status, headers, body)
   local who, user, sent, got = body:match("^(%S+) (%S+) (%d+) (%d+)\n$")
   if not who then
      who, user = body:match("^(%S+) (%S+)\n$")
   end
   local right = sent == got and (user == "-" and who and who:match("^web%-") or user == who)
   if status == 200 and (user == "eve" or anyones) and who:match("^web%-") then
      fallen = fallen + 1
   elseif anyones and status == 200 and who == "ada" then
      return
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
