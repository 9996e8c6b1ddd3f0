"""The web page of `lafr ui`: photos in, faces ticked, results out.

models     the networks that can be picked, each loaded at its first use
photos     a photo of a session: its faces, what the network made of them, what is shown
sessions   a user's photos, from the first upload until the page is closed
app        the page itself, in Gradio
web        the part of the page that Gradio has no component for
"""
