"""What a container was given, brought to the laptop: its environment once, its files for as long as they are wanted.

reader = GivenReader(session, lambda: cluster.api)
source = choose(pods, ports, container)              which pod, which container
await reader.environment(source)                     a dict
async for files in reader.files(source): ...         the files now, and again whenever they have changed
FilesDirectory(path).write(files)                    on disk, for this user alone; `remove` takes it back
"""
